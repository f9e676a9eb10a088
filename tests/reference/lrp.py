#!/usr/bin/env python3
"""Writes tests/golden/lrp.safetensors: what zennit answers for its LRP composites on the
small residual network, the MLP and the time series network of golden.py, the last two with
ELU and GroupNorm as well, and Captum for its LRP on the two as they are.

    python tests/reference/lrp.py            # write
    python tests/reference/lrp.py --check    # compare what is there with what would be written

All in f64, from the weights and inputs that golden.py wrote. zennit merges BatchNorm into the
convolution before it and leaves the BatchNorm's epsilon in place, so that an already merged
layer is divided by sqrt(1 + 1e-5) once more; here that epsilon is set to zero, and how far
zennit is from itself without this is printed. Modules stand in for functions (tanh, relu,
mean), because hooks only see modules.
"""

import argparse
import sys
import warnings
from pathlib import Path

import torch
from captum.attr import LRP
from captum.attr._utils.lrp_rules import EpsilonRule
from golden import GOLDEN, BasicBlock, SmallResNet, compare, relative_l2
from safetensors.torch import load_file, save_file
from torch import nn
from zennit.attribution import Gradient
from zennit.composites import (
    EpsilonAlpha2Beta1,
    EpsilonAlpha2Beta1Flat,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    ExcitationBackprop,
    LayerMapComposite,
    SpecialFirstLayerMapComposite,
    layer_map_base,
)
from zennit.rules import AlphaBeta, Epsilon, Gamma, Pass, WSquare, ZPlus
from zennit.torchvision import ResNetCanonizer
from zennit.types import Activation, BatchNorm, Linear

LOW, HIGH = -4.0, 4.5


class Mlp(nn.Sequential):
    def __init__(self):
        super().__init__()
        self.fc1, self.relu = nn.Linear(9, 16), nn.ReLU()
        self.fc2, self.tanh = nn.Linear(16, 16), nn.Tanh()
        self.fc3 = nn.Linear(16, 3)


class EluMlp(nn.Sequential):
    def __init__(self):
        super().__init__()
        self.fc1, self.elu1 = nn.Linear(9, 16), nn.ELU(0.7)
        self.fc2, self.elu2 = nn.Linear(16, 16), nn.ELU()
        self.fc3 = nn.Linear(16, 3)


class SeriesNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(3, 8, 5, padding=2)
        self.conv2 = nn.Conv1d(8, 8, 3, stride=2, dilation=2, padding=1)
        self.fc = nn.Linear(8, 2)
        self.tanh, self.relu, self.mean = nn.Tanh(), nn.ReLU(), nn.AdaptiveAvgPool1d(1)

    def forward(self, x):
        x = self.tanh(self.conv1(x.transpose(1, 2)))
        return self.fc(self.mean(self.relu(self.conv2(x))).flatten(1))


class GroupNorm(nn.GroupNorm):
    """PyTorch's own returns three tensors inside, and zennit's hooks can do with one."""

    def forward(self, x):
        return super().forward(x).clone()


class GroupNormNet(SeriesNet):
    def __init__(self):
        super().__init__()
        self.norm = GroupNorm(2, 8)

    def forward(self, x):
        x = self.tanh(self.norm(self.conv1(x.transpose(1, 2))))
        return self.fc(self.mean(self.relu(self.conv2(x))).flatten(1))

    def load_state_dict(self, weights):
        steps = torch.arange(8).double()
        own = {"norm.weight": 0.5 + steps / 8, "norm.bias": (steps - 3.5) / 16}
        return super().load_state_dict(weights | own)


def everywhere(rule):
    return lambda **args: LayerMapComposite(layer_map_base() + [(Linear, rule)], **args)


def deep_taylor(**args):
    base = layer_map_base() + [(Linear, ZPlus())]
    return SpecialFirstLayerMapComposite(base, [(Linear, WSquare())], **args)


def ignoring_biases(composite):
    return lambda **args: composite(zero_params=["bias"], **args)


def excitation(**args):
    return ExcitationBackprop(layer_map=[(Activation, Pass()), (BatchNorm, Pass())], **args)


COMPOSITES = {
    "epsilon_plus": EpsilonPlus,
    "epsilon_plus_flat": EpsilonPlusFlat,
    "epsilon_alpha2_beta1": EpsilonAlpha2Beta1,
    "epsilon_alpha2_beta1_flat": EpsilonAlpha2Beta1Flat,
    "epsilon_gamma_box": lambda **args: EpsilonGammaBox(low=LOW, high=HIGH, **args),
    "epsilon": everywhere(Epsilon()),
    "large_epsilon": everywhere(Epsilon(0.1)),
    "gamma": everywhere(Gamma(0.25)),
    "z_plus": everywhere(ZPlus()),
    "alpha_beta": everywhere(AlphaBeta(2, 1)),
    "w2": deep_taylor,
    "epsilon_plus_ignored": ignoring_biases(EpsilonPlus),
    "alpha2_beta1_ignored": ignoring_biases(EpsilonAlpha2Beta1),
    "gamma_box_ignored": lambda **args: EpsilonGammaBox(low=LOW, high=HIGH, zero_params=["bias"], **args),
    "excitation": lambda **args: excitation(zero_params=["bias"], **args),
    "excitation_zennit": excitation,
}
# What the residual network is asked for; each map costs 24 kB.
RESNET = [
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
    "epsilon",
    "w2",
    "gamma_box_ignored",
    "excitation",
]
# What networks with ELU and GroupNorm are asked for.
PASSED = [
    "epsilon_plus",
    "epsilon_alpha2_beta1",
    "epsilon",
    "large_epsilon",
    "gamma",
    "z_plus",
    "alpha_beta",
    "w2",
]
# zennit puts its box on convolutions only, this crate on any first layer.
MLP = [name for name in COMPOSITES if "box" not in name]


class Canonizer(ResNetCanonizer):
    """Merges, and makes what is left of BatchNorm the identity."""

    epsilon = 0.0

    def apply(self, root):
        instances = super().apply(root)
        for module in root.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = self.epsilon
        return instances

    def copy(self):
        return type(self)()


def with_epsilon(build):
    """The same composite, with merged BatchNorms as zennit leaves them."""
    canonizer = Canonizer()
    canonizer.epsilon = 1e-5
    return build(canonizers=[canonizer])


def relevance(model, composite, x, excitation):
    logits = model(x)
    start = nn.functional.one_hot(logits.argmax(1), logits.shape[1]).double()
    with Gradient(model=model, composite=composite) as attributor:
        return attributor(x, start if excitation else start * logits.detach())[1].detach()


def captum_lrp(model, x):
    """Captum's LRP at its default epsilon; layers that it knows no rule for need one set."""
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.AdaptiveAvgPool1d)):
            module.rule = EpsilonRule()
    return LRP(model).attribute(x, target=model(x).argmax(1)).detach()


def load(model, name):
    model.load_state_dict(load_file(GOLDEN / f"{name}.weights.safetensors"))
    return model.double().eval(), load_file(GOLDEN / f"{name}.safetensors")


def resnet(name):
    model, golden = load(SmallResNet(BasicBlock, [2, 1, 1, 1], width=4, classes=3), "small_resnet_basic")
    return model, golden["input"].double(), golden["logits"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    warnings.filterwarnings("ignore", message="Input Tensor 0 did not already require gradients")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    out = {}
    for name in RESNET:
        build, excites = COMPOSITES[name], "excitation" in name
        model, x, logits = resnet(name)
        if relative_l2(model(x), logits) > 1e-12:
            sys.exit("the residual network's logits are not golden.py's")
        own = relevance(model, build(canonizers=[Canonizer()]), x, excites)
        model, x, _ = resnet(name)
        zennit = relevance(model, with_epsilon(build), x, excites)
        print(f"  {name}: zennit with BatchNorm's epsilon kept is {relative_l2(zennit, own):.1e} away")
        out[f"resnet.{name}"] = own
    for network, build, names in [("mlp", Mlp, MLP), ("series", SeriesNet, list(COMPOSITES))]:
        model, golden = load(build(), network)
        x = golden["input"].double()
        if relative_l2(model(x), golden["logits"]) > 1e-12:
            sys.exit(f"{network}: the logits are not golden.py's")
        for name in names:
            out[f"{network}.{name}"] = relevance(model, COMPOSITES[name](), x, "excitation" in name)
        out[f"{network}.captum"] = captum_lrp(model, x)
    for network, build, weights in [("elu", EluMlp, "mlp"), ("group_norm", GroupNormNet, "series")]:
        model, golden = load(build().double(), weights)
        for name in PASSED:
            composite = COMPOSITES[name]()
            # zennit has no rule for GroupNorm; here it is one for BatchNorm too.
            composite.layer_map = [(GroupNorm, Pass())] + composite.layer_map
            out[f"{network}.{name}"] = relevance(model, composite, golden["input"].double(), False)
    out = {name: value.contiguous() for name, value in out.items()}
    path = GOLDEN / "lrp.safetensors"
    if check:
        compare(path, out)
    else:
        save_file(out, path)
        path.chmod(0o644)
    print(f"{path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
