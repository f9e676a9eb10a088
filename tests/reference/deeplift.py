#!/usr/bin/env python3
"""Writes tests/golden/deeplift.safetensors: what Captum's DeepLift and DeepLiftShap answer
for the golden networks, a network with max pools and an LSTM; its LayerDeepLift, LayerLRP,
NeuronDeepLift and NeuronGuidedBackprop for a layer and a neuron of two of them.

    python tests/reference/deeplift.py            # write
    python tests/reference/deeplift.py --check    # compare what is there with what would be written

Captum works by hooks on modules that are used once, so each network is rebuilt with one
module for every activation. Everything is computed in f64; the weights of the golden
networks are those of golden.py, those of the two small ones are stored beside the values.

Two things keep Captum's values from adding up (it prints so here), and are stepped round:
- Its hooks are on tensors. Where a max pool takes the very tensor that an activation made, they
  fire in an order that gives the activation the plain gradient of the pool; where the input
  of an activation is used elsewhere too (an LSTM's cell), what comes from there is lost. `+ 0`
  makes it another tensor.
- It spreads max pooling with `max_unpool2d`, which keeps one of the shares where a position
  wins several overlapping windows. ResNet's first pool is such a one, and is given an unpooling
  that adds the shares. The network `pooled` has windows that do not overlap.
"""

import argparse
import sys
import warnings
from unittest import mock

import torch
import torch.nn.functional as F
from captum.attr import DeepLift, DeepLiftShap, LayerDeepLift, LayerLRP, NeuronDeepLift, NeuronGuidedBackprop
from captum.attr._utils.lrp_rules import EpsilonRule
from golden import GOLDEN, Mlp, SeriesNet, SmallResNet, compare
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models.resnet import BasicBlock


class Block(BasicBlock):
    """BasicBlock with two ReLU modules."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + identity)


class ResNetModules(SmallResNet):
    def __init__(self, *args, **kwargs):
        super().__init__(Block, *args, **kwargs)
        self.relu = nn.ReLU()

    def _forward_impl(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.maxpool(x + 0)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


class MlpModules(Mlp):
    def __init__(self, *args, softmax=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.tanh = nn.Tanh()
        self.out = nn.Softmax(dim=1) if softmax else nn.Identity()

    def forward(self, x):
        return self.out(self.fc3(self.tanh(self.fc2(self.relu(self.fc1(x))))))


class SeriesModules(SeriesNet):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.tanh = nn.Tanh()

    def forward(self, x):
        x = self.tanh(self.conv1(x.transpose(1, 2)))
        return self.fc(self.relu(self.conv2(x)).mean(dim=2))


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.fc = nn.Linear(6 * 2 * 3, 3)
        self.relu, self.elu, self.sigmoid = nn.ReLU(), nn.ELU(), nn.Sigmoid()
        self.pool1, self.pool2 = nn.MaxPool2d(2), nn.MaxPool2d(2)

    def forward(self, x):
        x = self.pool1(self.relu(self.conv1(x)) + 0)
        x = self.pool2(self.elu(self.conv2(x)) + 0)
        return self.sigmoid(self.fc(x.flatten(1)))


class UnrolledLstm(nn.Module):
    """nn.LSTM by its equations, with activations of its own at each step."""

    def __init__(self, features, hidden, classes, steps):
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, batch_first=True)
        self.fc = nn.Linear(hidden, classes)
        self.gates = nn.ModuleList(nn.ModuleList([nn.Sigmoid() for _ in range(3)] + [nn.Tanh() for _ in range(2)]) for _ in range(steps))

    def forward(self, x):
        lstm, h, c = self.lstm, 0.0, 0.0
        for step, (sig_i, sig_f, sig_o, tanh_g, tanh_c) in enumerate(self.gates):
            gates = x[:, step] @ lstm.weight_ih_l0.T + lstm.bias_ih_l0 + lstm.bias_hh_l0
            if step > 0:
                gates = gates + h @ lstm.weight_hh_l0.T
            i, f, g, o = gates.chunk(4, dim=1)
            c = sig_i(i) * tanh_g(g) + (sig_f(f) * c if step > 0 else 0.0)
            h = sig_o(o) * tanh_c(c + 0)
        return self.fc(h)


def adding_unpool(values, indices, kernel, stride, padding, shape):
    """max_unpool2d that adds the shares of overlapping windows."""
    flat = values.new_zeros(*shape[:2], shape[2] * shape[3])
    return flat.scatter_add(2, indices.flatten(2), values.flatten(2)).reshape(shape)


def lift(name, model, x, target, baseline):
    values, delta = DeepLift(model).attribute(x, baseline, target=target, return_convergence_delta=True)
    print(f"  {name}: Captum's largest delta is {delta.abs().max():.1e}")
    return values


def shap(name, model, x, target, baselines):
    values, delta = DeepLiftShap(model).attribute(x, baselines, target=target, return_convergence_delta=True)
    print(f"  {name}: Captum's largest delta is {delta.abs().max():.1e}")
    return values


def golden(name, model):
    weights = load_file(GOLDEN / f"{name}.weights.safetensors")
    model.load_state_dict(weights)
    x = load_file(GOLDEN / f"{name}.safetensors")["input"].double()
    model = model.double().eval()
    return model, x, model(x).argmax(1)


def exact(t):
    return t.float().double()


def values():
    torch.manual_seed(5)
    out = {}

    model, x, target = golden("mlp", MlpModules(features=9, hidden=16, classes=3))
    baselines = exact(torch.randn(5, 9))
    out["mlp.zero"] = lift("mlp", model, x, target, torch.zeros_like(x))
    out["mlp.baselines"] = baselines.float()
    out["mlp.given"] = lift("mlp, baseline", model, x, target, baselines[:1].expand_as(x))
    out["mlp.shap"] = shap("mlp, shap", model, x, target, baselines)
    out["mlp.multipliers"] = DeepLift(model, multiply_by_inputs=False).attribute(x, torch.zeros_like(x), target=target)
    out["mlp.layer"] = LayerDeepLift(model, model.fc2).attribute(x, 0 * x, target=target)
    model.out.rule = EpsilonRule()
    out["mlp.layer.lrp"] = LayerLRP(model, model.fc2).attribute(x, target=target)
    out["mlp.neuron"] = NeuronDeepLift(model, model.fc2).attribute(x, 5, 0 * x)
    out["mlp.neuron.guided"] = NeuronGuidedBackprop(model, model.fc2).attribute(x, 5)
    # Captum centres softmax multipliers over the whole batch, so one row at a time.
    model, x, target = golden("mlp", MlpModules(features=9, hidden=16, classes=3, softmax=True))
    rows = [lift("softmax", model, x[i : i + 1], target[i : i + 1], 0 * x[:1]) for i in range(len(x))]
    out["mlp.softmax"] = torch.cat(rows)

    model, x, target = golden("series", SeriesModules(features=3, channels=8, classes=2))
    out["series.zero"] = lift("series", model, x, target, torch.zeros_like(x))
    out["series.shap"] = shap("series, shap", model, x, target, torch.stack([0 * x[0], torch.ones_like(x[0])]))

    model, x, target = golden("small_resnet_basic", ResNetModules([2, 1, 1, 1], width=4, classes=3))
    lift("resnet, Captum's own unpooling", model, x, target, torch.zeros_like(x))
    with mock.patch.object(F, "max_unpool2d", adding_unpool):
        out["resnet.zero"] = lift("resnet", model, x, target, torch.zeros_like(x)).float()
        baselines = torch.stack([0 * x[0], 0.5 + 0 * x[0]])
        out["resnet.layer2"] = LayerDeepLift(model, model.layer2).attribute(x, 0 * x, target=target)
        out["resnet.shap"] = shap("resnet, shap", model, x, target, baselines).float()

    model = Pooled()
    x = torch.randn(3, 2, 8, 12)
    for p in model.parameters():
        p.data.mul_(2.0)
    out |= {f"pooled.weights.{k}": v for k, v in model.state_dict().items()}
    out["pooled.input"] = x
    model, x = model.double(), x.double()
    target = torch.tensor([0, 1, 2])
    out["pooled.zero"] = lift("pooled", model, x, target, torch.zeros_like(x))
    out["pooled.one"] = lift("pooled, ones", model, x, target, torch.ones_like(x))

    model = UnrolledLstm(features=3, hidden=5, classes=4, steps=6)
    for p in model.parameters():
        p.data.mul_(2.0)
    x = torch.randn(4, 6, 3)
    out |= {f"lstm.weights.{k}": v for k, v in model.state_dict().items()}
    out["lstm.input"] = x
    model, x = model.double(), x.double()
    target = torch.arange(4)
    torch_own = model.fc(model.lstm(x)[1][0][0])
    assert torch.allclose(model(x), torch_own), "the unrolled LSTM is not nn.LSTM"
    out["lstm.logits"] = model(x)
    out["lstm.zero"] = lift("lstm", model, x, target, torch.zeros_like(x))
    return {k: v.detach().contiguous() for k, v in out.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    path = GOLDEN / "deeplift.safetensors"
    tensors = values()
    if check:
        compare(path, tensors)
    else:
        save_file(tensors, path)
        path.chmod(0o644)
    print(f"{path.stat().st_size:,} bytes in {path.name}")


if __name__ == "__main__":
    sys.exit(main())
