#!/usr/bin/env python3
"""Writes tests/golden/*.safetensors: what PyTorch, torchvision, Captum and numpy
answer for a few small networks, maps and vectors.

    python tests/reference/golden.py            # write
    python tests/reference/golden.py --check    # compare what is there with what would be written

Weights and inputs are exact in f32; everything expected is computed and stored in f64.
`NAME.weights.safetensors` is a plain state_dict, `NAME.safetensors` holds `input` and
the expected tensors. Seeds are searched until no ReLU or max-pool sits near a kink and
no prediction is close, so that an f32 run meets the same masks and classes as the f64 one,
and logits do not cancel, so that it agrees to a few roundings.
"""

import argparse
import copy
import itertools
import sys
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from captum.attr import InputXGradient, NoiseTunnel, Saliency
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
KINK_MARGIN = 3e-5
LOGIT_MARGIN = 3e-3
F32_ROUNDING = 7e-7


class SmallResNet(ResNet):
    """torchvision's ResNet with `width` base planes in place of 64."""

    def __init__(self, block, layers, width, classes):
        nn.Module.__init__(self)
        self._norm_layer = nn.BatchNorm2d
        self.inplanes, self.dilation, self.groups, self.base_width = width, 1, 1, 64
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = self._make_layer(block, width, layers[0])
        self.layer2 = self._make_layer(block, 2 * width, layers[1], stride=2)
        self.layer3 = self._make_layer(block, 4 * width, layers[2], stride=2)
        self.layer4 = self._make_layer(block, 8 * width, layers[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * width * block.expansion, classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")


class Mlp(nn.Module):
    """Table [N, F] -> logits."""

    def __init__(self, features, hidden, classes):
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, classes)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.fc3(torch.tanh(self.fc2(self.relu(self.fc1(x)))))


class SeriesNet(nn.Module):
    """Time series [N, T, F] -> logits."""

    def __init__(self, features, channels, classes):
        super().__init__()
        self.conv1 = nn.Conv1d(features, channels, 5, padding=2)
        self.conv2 = nn.Conv1d(channels, channels, 3, stride=2, dilation=2, padding=1)
        self.fc = nn.Linear(channels, classes)
        self.relu = nn.ReLU()

    def forward(self, x):
        x = torch.tanh(self.conv1(x.transpose(1, 2)))
        return self.fc(self.relu(self.conv2(x)).mean(dim=2))


@torch.no_grad()
def randomise_batch_norm(model, batch):
    """Measures each BatchNorm's statistics on `batch`, then jitters them and draws the affine part.

    Measured statistics keep activations of order one at any depth; the jitter makes
    every parameter matter. The affine scale of a residual branch's last BatchNorm is halved.
    """
    norms = {name: m for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for name, m in norms.items():
        closes_branch = name.endswith("bn3") or (name.endswith("bn2") and name.replace("bn2", "bn3") not in norms)
        m.weight.uniform_(0.6, 1.4).mul_(0.5 if closes_branch else 1.0)
        m.bias.normal_(0.0, 0.2)
        m.momentum = None
        m.reset_running_stats()
    model.train()
    model(batch)
    model.eval()
    for m in norms.values():
        deviation = m.running_var.sqrt()
        m.running_mean += 0.1 * deviation * torch.randn_like(deviation)
        m.running_var *= torch.exp(0.2 * torch.randn_like(deviation))


def input_gradient(model, x, target):
    """d logit[target of the row] / d x."""
    x = x.detach().clone().requires_grad_()
    logits = model(x)
    logits.gather(1, target.reshape(-1, 1)).sum().backward()
    return x.grad


def relative_l2(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def kink_distance(model, x):
    """The least |pre-activation| of any ReLU, and the least positive lead in any max-pool window."""
    distances = []

    def relu(_, inputs):
        distances.append(inputs[0].abs().min().item())

    def max_pool(module, inputs):
        windows = nn.functional.pad(inputs[0], [module.padding] * 4, value=-1.0)
        windows = windows.unfold(2, module.kernel_size, module.stride).unfold(3, module.kernel_size, module.stride)
        first, second = windows.flatten(4).topk(2, dim=4).values.unbind(4)
        distances.append((first - second)[first > 0].min().item())

    hooks = [m.register_forward_pre_hook(relu) for m in model.modules() if isinstance(m, nn.ReLU)]
    hooks += [m.register_forward_pre_hook(max_pool) for m in model.modules() if isinstance(m, nn.MaxPool2d)]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return min(distances)


def noise_for(x, samples, level=0.1):
    """`samples` draws of N(0, (level * (max x - min x))^2), exact in f32: [samples, *x.shape[1:]]."""
    sigma = level * (x.max() - x.min())
    return (sigma * torch.randn(samples, *x.shape[1:], dtype=torch.float64)).float().double()


def well_conditioned(build, samples=0):
    """The first seed whose network is exact in f32 too: (model f64, input f64, noise f64)."""
    for seed in itertools.count(1):
        torch.manual_seed(seed)
        model, x = build()
        model, x = model.double().eval(), x.double()
        noise = noise_for(x[:1], samples)
        logits = model(x)
        kink = kink_distance(model, torch.cat([x, x[:1] + noise]))
        tie = (logits.topk(2).values @ torch.tensor([1.0, -1.0], dtype=torch.float64)).min().item()
        rounding = relative_l2(copy.deepcopy(model).float()(x.float()), logits)
        varied = len(x) == 1 or len(logits.argmax(1).unique()) > 1
        if kink > KINK_MARGIN and tie > LOGIT_MARGIN and rounding < F32_ROUNDING and varied:
            return model, x, noise


def small_resnet(block, layers, rows, samples=0):
    def build():
        model = SmallResNet(block, layers, width=4, classes=3)
        randomise_batch_norm(model, torch.randn(64, 3, 32, 32))
        return model, torch.randn(rows, 3, 32, 32)

    return well_conditioned(build, samples)


def agree(what, ours, captum):
    if not torch.allclose(ours, captum, rtol=1e-12, atol=1e-13):
        sys.exit(f"{what}: Captum differs by {(ours - captum).abs().max():.3e}")


def gradients(model, x, targets):
    """`logits`, and for each name in `targets` its gradient, checked against Captum's Saliency."""
    out = {"input": x.float(), "logits": model(x)}
    for name, target in targets.items():
        g = input_gradient(model, x, target)
        agree(f"gradient.{name}", g, Saliency(model).attribute(x, target=target, abs=False))
        agree(f"|gradient.{name}|", g.abs(), Saliency(model).attribute(x, target=target, abs=True))
        g32 = input_gradient(model.float(), x.float(), target)
        model.double()
        print(f"  {name}: PyTorch's own f32 gradient is {relative_l2(g32, g):.1e} from its f64 one")
        out[f"gradient.{name}"] = g
    return out


def reductions(g):
    """Channel reductions of gradients [N, C, H, W] to [N, H, W]."""
    return {
        "max": g.abs().amax(1),
        "mean": g.abs().mean(1),
        "l2": g.square().sum(1).sqrt(),
        "sum": g.abs().sum(1),
        "squared": g.square().amax(1),
        "positive_only": g.clamp(min=0).amax(1),
        "negative": g.clamp(max=0).abs().amax(1),
    }


def smoothgrad(model, x, target, noise):
    """Averages over the fixed noise samples; the variance is the population one."""
    g = torch.cat([input_gradient(model, x + n, target) for n in noise])
    expected = {
        "mean_absolute": g.abs().mean(0, keepdim=True),
        "mean": g.mean(0, keepdim=True),
        "mean_squared": g.square().mean(0, keepdim=True),
        "variance": g.var(0, correction=0, keepdim=True),
    }
    types = {
        "mean_absolute": ("smoothgrad", True),
        "mean": ("smoothgrad", False),
        "mean_squared": ("smoothgrad_sq", False),
        "variance": ("vargrad", False),
    }
    with mock.patch("torch.normal", lambda *_: noise):
        for name, (kind, absolute) in types.items():
            captum = NoiseTunnel(Saliency(model)).attribute(
                x, nt_type=kind, nt_samples=len(noise), target=target, abs=absolute
            )
            agree(f"smoothgrad.{name}", expected[name], captum)
    return {"noise": noise.float()} | {f"smoothgrad.{name}": v for name, v in expected.items()}


def state(model):
    """The state_dict, floating tensors in f32."""
    return {k: v.float() if v.is_floating_point() else v for k, v in model.state_dict().items()}


def bottleneck_case():
    model, x, _ = small_resnet(Bottleneck, [2, 1, 1, 1], rows=2)
    targets = {str(c): torch.full((2,), c) for c in range(3)}
    out = gradients(model, x, targets)
    predicted = out["logits"].argmax(1)
    g = input_gradient(model, x, predicted)[:1]
    out |= {f"reduction.{name}": v for name, v in reductions(g).items()}
    out["input_x_gradient"] = InputXGradient(model).attribute(x[:1], target=predicted[:1])
    agree("input_x_gradient", x[:1] * g, out["input_x_gradient"])
    return out, state(model)


def basic_case():
    model, x, noise = small_resnet(BasicBlock, [2, 1, 1, 1], rows=1, samples=4)
    predicted = model(x).argmax(1)
    out = gradients(model, x, {"predicted": predicted})
    out |= smoothgrad(model, x, predicted, noise)
    del out["smoothgrad.mean_squared"]  # the small cases keep it; here it costs 24 kB
    return out, state(model)


def vector_case(build, samples=3):
    """A table or a time series: every class's gradient, gradient x input, SmoothGrad of row 0."""
    model, x, noise = well_conditioned(build, samples)
    predicted = model(x).argmax(1)
    mixed = torch.arange(len(x)) % model(x).shape[1]
    out = gradients(model, x, {"predicted": predicted, "mixed": mixed})
    out["mixed"] = mixed
    out["input_x_gradient"] = InputXGradient(model).attribute(x, target=predicted)
    agree("input_x_gradient", x * out["gradient.predicted"], out["input_x_gradient"])
    out |= smoothgrad(model, x[:1], predicted[:1], noise)
    return out, state(model)


@torch.no_grad()
def doubled(model):
    """Twice PyTorch's default initial weights: predictions then vary from row to row."""
    for p in model.parameters():
        p.mul_(2.0)
    return model


def mlp_case():
    return vector_case(lambda: (doubled(Mlp(features=9, hidden=16, classes=3)), torch.randn(6, 9)))


def series_case():
    out, weights = vector_case(lambda: (doubled(SeriesNet(features=3, channels=8, classes=2)), torch.randn(4, 24, 3)))
    out["per_step"] = out["gradient.predicted"].abs().sum(2)
    return out, weights


def statistics_of(v):
    return {
        "min": v.min(),
        "max": v.max(),
        "mean": v.mean(),
        "std": v.std(),
        "median": np.median(v),
        "p75": np.percentile(v, 75),
        "p90": np.percentile(v, 90),
        "p95": np.percentile(v, 95),
        "p99": np.percentile(v, 99),
        "sparsity": (v < v.mean()).mean(),
        "max_to_mean": v.max() / (v.mean() + 1e-8),
    }


def normalised(m):
    span = m.max() - m.min()
    return np.zeros_like(m) if span <= 1e-10 else (m - m.min()) / span


def statistics_case():
    rng = np.random.default_rng(1)
    exact = lambda a: a.astype(np.float32).astype(np.float64)
    vectors = {
        "skewed": exact(rng.lognormal(-2.0, 1.5, 257)),
        "even": exact(rng.random(100)),
        "signed": exact(rng.normal(0.3, 1.0, 64)),
        "short": exact(np.array([0.5, 0.25, 2.0])),
        "constant": np.full(10, 0.75),
    }
    out = {}
    for name, v in vectors.items():
        out[f"{name}.values"] = v
        out |= {f"{name}.{k}": np.array([s]) for k, s in statistics_of(v).items()}
    base = rng.random((9, 12))
    maps = [base, base + 0.3 * rng.random((9, 12)), 1.0 - base**2, rng.random((9, 12))]
    maps = exact(np.stack(maps))
    out["maps"] = maps
    out["correlation"] = np.corrcoef(maps.reshape(4, -1))
    out["normalised"] = np.stack([normalised(m) for m in maps])
    return {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in out.items()}, None


CASES = {
    "small_resnet_bottleneck": bottleneck_case,
    "small_resnet_basic": basic_case,
    "mlp": mlp_case,
    "series": series_case,
    "statistics": statistics_case,
}


def compare(path, tensors):
    stored = load_file(path)
    if stored.keys() != tensors.keys():
        sys.exit(f"{path.name}: different tensors {sorted(stored.keys() ^ tensors.keys())}; run golden.py")
    for name, want in tensors.items():
        if stored[name].shape != want.shape or not torch.allclose(stored[name], want, rtol=1e-9, atol=1e-11):
            sys.exit(f"{path.name}: {name} differs; run golden.py and look at what changed")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    warnings.filterwarnings("ignore", message="Input Tensor 0 did not already require gradients")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    GOLDEN.mkdir(exist_ok=True)
    for name, case in CASES.items():
        print(name)
        expected, weights = case()
        for suffix, tensors in [("", expected), (".weights", weights)]:
            if tensors is None:
                continue
            tensors = {k: v.detach().contiguous() for k, v in tensors.items()}
            path = GOLDEN / f"{name}{suffix}.safetensors"
            if check:
                compare(path, tensors)
            else:
                save_file(tensors, path)
                path.chmod(0o644)
    print(f"{sum(p.stat().st_size for p in GOLDEN.glob('*.safetensors')):,} bytes in {GOLDEN.name}/")


if __name__ == "__main__":
    main()
