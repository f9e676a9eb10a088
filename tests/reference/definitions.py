#!/usr/bin/env python3
"""Writes tests/golden/definitions.safetensors: IDGI and contrastive excitation backprop, which no
peer has, by their definitions in plain PyTorch, on the networks that golden.py made.

    python tests/reference/definitions.py            # write
    python tests/reference/definitions.py --check    # compare what is there with what would be written

In f64. Nothing here is shared with zennit or with this project's code: a network is a list of
steps, each of which passes back what arrives at its output.
"""

import argparse
from pathlib import Path

import torch
from golden import GOLDEN, BasicBlock, Mlp, SeriesNet, SmallResNet, compare
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

STABILISER = 1e-6
STEPS = 12


def load(name, model):
    model.load_state_dict(load_file(GOLDEN / f"{name}.weights.safetensors"))
    return model.double().eval(), load_file(GOLDEN / f"{name}.safetensors")["input"].double()


# IDGI, algorithm 1 of Yang, Wang and Bilgic (2023), on the straight line from a baseline.


def idgi(model, x, baseline, targets):
    total = torch.zeros_like(x)
    at = [baseline + (x - baseline) * step / STEPS for step in range(STEPS + 1)]
    for here, there in zip(at, at[1:]):
        here = here.clone().requires_grad_()
        scores = model(here).gather(1, targets[:, None])[:, 0]
        (gradient,) = torch.autograd.grad(scores.sum(), here)
        with torch.no_grad():
            rise = model(there).gather(1, targets[:, None])[:, 0] - scores
            square = gradient**2
            norm = square.flatten(1).sum(1)
            by_row = (-1, *[1] * (x.dim() - 1))
            total += square * (rise / norm).reshape(by_row)
    return total


# Excitation backprop after Zhang et al. (2016), without biases.


def away_from_zero(z):
    return z + torch.where(z < 0, -STABILISER, STABILISER)


def transposed(function, x, arriving):
    """What a linear function's transpose makes of `arriving`."""
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(function(x), x, arriving)[0]


class Weighted:
    """A layer with weights: those that are positive, or of a negative input negative, win."""

    def __init__(self, weight, bias, apply):
        self.weight, self.bias, self.apply = weight, bias, apply

    def forward(self, x):
        self.x = x
        y = self.apply(x, self.weight)
        if self.bias is None:
            return y
        return y + self.bias.reshape(1, -1, *[1] * (y.dim() - 2))

    def back(self, arriving, weight=None):
        weight = self.weight if weight is None else weight
        halves = [(self.x.clamp(min=0), weight.clamp(min=0)), (self.x.clamp(max=0), weight.clamp(max=0))]
        whole = sum(self.apply(x, w) for x, w in halves)
        share = arriving / away_from_zero(whole)
        return sum(x * transposed(lambda v, w=w: self.apply(v, w), x, share) for x, w in halves)


class Shared:
    """A mean: in proportion to what each input adds."""

    def __init__(self, apply):
        self.apply = apply

    def forward(self, x):
        self.x = x
        return self.apply(x)

    def back(self, arriving):
        share = arriving / away_from_zero(self.apply(self.x))
        return self.x * transposed(self.apply, self.x, share)


class Moved(Shared):
    """Something that only moves or selects values."""

    def back(self, arriving):
        return transposed(self.apply, self.x, arriving)


class Passed(Shared):
    """An activation."""

    def back(self, arriving):
        return arriving


class Residual:
    """Two branches, added."""

    def __init__(self, branch, shortcut):
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x):
        self.ends = [run(steps, x) for steps in (self.branch, self.shortcut)]
        return sum(self.ends)

    def back(self, arriving):
        share = arriving / away_from_zero(sum(self.ends))
        pairs = zip((self.branch, self.shortcut), self.ends)
        return sum(back(steps, end * share) for steps, end in pairs)


def run(steps, x):
    for step in steps:
        x = step.forward(x)
    return x


def back(steps, arriving):
    for step in reversed(steps):
        arriving = step.back(arriving)
    return arriving


def contrastive(steps, x, targets):
    """The walk from the class minus the walk from its opposite."""
    logits = run(steps, x)
    start = F.one_hot(targets, logits.shape[1]).to(x)
    *before, last = steps
    return back(before, last.back(start)) - back(before, last.back(start, -last.weight))


def dense(layer):
    return Weighted(layer.weight, layer.bias, F.linear)


def convolution(layer, norm=None):
    """With the BatchNorm after it merged into it."""
    weight, bias = layer.weight, layer.bias
    if norm is not None:
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight = weight * scale[:, None, None, None]
        bias = norm.bias - norm.running_mean * scale
    apply = {1: F.conv1d, 2: F.conv2d}[weight.dim() - 2]
    options = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    return Weighted(weight, bias, lambda x, w: apply(x, w, **options))


def resnet_steps(model):
    relu = lambda: Passed(torch.relu)
    steps = [convolution(model.conv1, model.bn1), relu(), Moved(lambda x: F.max_pool2d(x, 3, 2, 1))]
    for block in [*model.layer1, *model.layer2, *model.layer3, *model.layer4]:
        branch = [convolution(block.conv1, block.bn1), relu(), convolution(block.conv2, block.bn2)]
        shortcut = [] if block.downsample is None else [convolution(*block.downsample)]
        steps += [Residual(branch, shortcut), relu()]
    return [*steps, Shared(lambda x: x.mean(dim=(2, 3))), dense(model.fc)]


def mlp_steps(model):
    return [dense(model.fc1), Passed(torch.relu), dense(model.fc2), Passed(torch.tanh), dense(model.fc3)]


def series_steps(model):
    return [
        Moved(lambda x: x.transpose(1, 2)),
        convolution(model.conv1),
        Passed(torch.tanh),
        convolution(model.conv2),
        Passed(torch.relu),
        Shared(lambda x: x.mean(dim=2)),
        dense(model.fc),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    networks = {
        "mlp": ("mlp", Mlp(9, 16, 3), mlp_steps),
        "series": ("series", SeriesNet(3, 8, 2), series_steps),
        "resnet": ("small_resnet_basic", SmallResNet(BasicBlock, [2, 1, 1, 1], width=4, classes=3), resnet_steps),
    }
    out = {}
    for network, (file, model, steps) in networks.items():
        model, x = load(file, model)
        with torch.no_grad():
            logits = model(x)
            targets = logits.argmax(1)
            steps = steps(model)
            assert torch.allclose(run(steps, x), logits, rtol=0, atol=1e-12), network
        out[f"{network}.idgi"] = idgi(model, x, torch.zeros_like(x), targets)
        out[f"{network}.idgi.minimum"] = idgi(model, x, torch.zeros_like(x) + x.flatten(1).amin(1).reshape(-1, *[1] * (x.dim() - 1)), targets)
        out[f"{network}.contrastive"] = contrastive(steps, x, targets)
    out = {name: value.detach().contiguous() for name, value in out.items()}
    path = Path(GOLDEN) / "definitions.safetensors"
    if check:
        compare(path, out)
    else:
        save_file(out, path)
        path.chmod(0o644)
    print(f"{path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
