#!/usr/bin/env python3
"""Writes tests/golden/layers.safetensors and layers.weights.safetensors: what Captum answers
for layers and neurons of the golden networks (golden.py), attention rollouts of a small vision
transformer, and similarities of maps by scipy and scikit-image.

    python tests/reference/layers.py            # write
    python tests/reference/layers.py --check    # compare what is there with what would be written

Everything is computed and stored in f64. The transformer's attention is written out here, from
the same weights; there is no peer library for it. Its names are those of the module in
tests/golden/layers.rs.
"""

import argparse
import sys

import torch
from captum.attr import (
    InternalInfluence,
    LayerActivation,
    LayerConductance,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    NeuronConductance,
    NeuronGradient,
    NeuronIntegratedGradients,
)
from golden import GOLDEN, Mlp, SmallResNet, compare
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from torch import nn
from torch.nn.functional import gelu, interpolate
from torchvision.models.resnet import BasicBlock

BASELINE = 0.25
STEPS = 12
RULES = ["gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid"]


def loaded(model, name):
    model.load_state_dict(load_file(GOLDEN / f"{name}.weights.safetensors"))
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    x = load_file(GOLDEN / f"{name}.safetensors")["input"]
    return model.double().eval(), x.double()


def layer_values(model, layer, x, target):
    path = {"baselines": BASELINE, "n_steps": STEPS}
    return {
        "activation": LayerActivation(model, layer).attribute(x),
        "gradient_x_activation": LayerGradientXActivation(model, layer).attribute(x, target=target),
        "gradient": LayerGradientXActivation(model, layer, multiply_by_inputs=False).attribute(x, target=target),
        "conductance": LayerConductance(model, layer).attribute(x, target=target, **path),
        "influence": InternalInfluence(model, layer).attribute(x, target=target, **path),
        "integrated": LayerIntegratedGradients(model, layer).attribute(x, target=target, **path),
    }


def neuron_values(model, layer, neuron, x, target):
    path = {"baselines": BASELINE, "n_steps": STEPS}
    return {
        "neuron_gradient": NeuronGradient(model, layer).attribute(x, neuron),
        "neuron_conductance": NeuronConductance(model, layer).attribute(x, neuron, target=target, **path),
        "neuron_integrated": NeuronIntegratedGradients(model, layer).attribute(x, neuron, **path),
    }


def named(prefix, values):
    return {f"{prefix}.{name}": value for name, value in values.items()}


def resnet_case():
    model, x = loaded(SmallResNet(BasicBlock, [2, 1, 1, 1], width=4, classes=3), "small_resnet_basic")
    target = model(x).argmax(1)
    out = named("resnet.layer1", layer_values(model, model.layer1, x, target))
    branch = model.layer2[0].conv2
    out |= named("resnet.layer2.0.conv2", layer_values(model, branch, x, target))
    out |= named("resnet.layer2.0.conv2", neuron_values(model, branch, (3, 1, 2), x, target))
    return out


def mlp_case():
    model, x = loaded(Mlp(features=9, hidden=16, classes=3), "mlp")
    target = torch.arange(len(x)) % 3
    out = named("mlp.fc2", layer_values(model, model.fc2, x, target))
    out |= named("mlp.relu_1", layer_values(model, model.relu, x, target))
    out |= named("mlp.fc2", neuron_values(model, model.fc2, 5, x, target))
    for rule in RULES:
        influence = InternalInfluence(model, model.relu).attribute(
            x, target=target, baselines=BASELINE, n_steps=STEPS, method=rule
        )
        out[f"mlp.influence.{rule}"] = influence
    return out


class Block(nn.Module):
    """Pre-norm transformer block; `forward` also returns the attention weights."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.ModuleDict({k: nn.Linear(width, width) for k in ["query", "key", "value", "output"]})
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x):
        rows, tokens, width = x.shape
        split = lambda y: y.reshape(rows, tokens, self.heads, -1).transpose(1, 2)
        y = self.norm1(x)
        q, k, v = (split(self.attention[name](y)) for name in ["query", "key", "value"])
        weights = (q @ k.transpose(2, 3) / (width // self.heads) ** 0.5).softmax(3)
        weights.requires_grad_().retain_grad()
        mixed = (weights @ v).transpose(1, 2).reshape(rows, tokens, width)
        x = x + self.attention["output"](mixed)
        return x + self.down(gelu(self.up(self.norm2(x)))), weights


class Vit(nn.Module):
    """Pictures [N, 3, 8, 8] -> class token and 4 x 4 patches -> logits."""

    def __init__(self, width=8, heads=2, blocks=2, classes=3):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 2, stride=2)
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 17, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + self.places
        attentions = []
        for block in self.blocks:
            x, weights = block(x)
            attentions.append(weights)
        return self.head(self.norm(x)[:, 0]), attentions


def rollout(attentions, fuse, discard):
    """Abnar and Zuidema, with the least weights discarded but [0, 0]."""
    result = torch.eye(17)
    for weights in attentions:
        fused = fuse(weights)
        for matrix in fused:
            flat = matrix.view(-1)
            _, least = flat.topk(int(len(flat) * discard), largest=False)
            flat[least[least != 0]] = 0
        step = (fused + torch.eye(17)) / 2
        result = step / step.sum(2, keepdim=True) @ result
    return result


def on_picture(row):
    """What tokens see of the patches: [N, 17] -> [N, 1, 8, 8]."""
    return interpolate(row[:, 1:].reshape(-1, 1, 4, 4), size=(8, 8), mode="bilinear", align_corners=False)


def transformer_case():
    torch.manual_seed(11)
    model = Vit()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_((p * (1 if "norm" in name else 2) + 0.1 * torch.randn_like(p)).float().double())
    x = torch.randn(2, 3, 8, 8).float().double()
    logits, attentions = model(x)
    out = {"vit.input": x.float(), "vit.logits": logits}
    plain = [a.detach().clone() for a in attentions]
    fusions = {
        "mean": (lambda a: a.mean(1), 0.0),
        "max": (lambda a: a.amax(1).clone(), 0.9),
        "min": (lambda a: a.amin(1).clone(), 0.4),
    }
    for name, (fuse, discard) in fusions.items():
        out[f"vit.rollout.{name}"] = on_picture(rollout(plain, fuse, discard)[:, 0])
    out["vit.map"] = on_picture(plain[0][:, 1, 0])
    out["vit.map.token"] = on_picture(plain[1].mean(1)[:, 6])
    logits[:, 1].sum().backward()
    relevance = torch.eye(17).expand(2, 17, 17)
    for weights in attentions:
        step = (weights.grad * weights.detach()).clamp(min=0).mean(1)
        relevance = relevance + step @ relevance
    out["vit.gradient_rollout"] = on_picture(relevance[:, 0])
    state = {k: v.float() for k, v in model.state_dict().items()}
    return out, state


def similarity_case():
    maps = load_file(GOLDEN / "statistics.safetensors")["maps"].numpy()
    scaled = [(m - m.min()) / (m.max() - m.min()) for m in maps]
    pairs = [(i, j) for i in range(4) for j in range(4)]
    return {
        "spearman": torch.tensor([spearmanr(maps[i].ravel(), maps[j].ravel()).statistic for i, j in pairs]),
        "ssim": torch.tensor([structural_similarity(scaled[i], scaled[j], data_range=1.0) for i, j in pairs]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    expected, weights = transformer_case()
    expected |= resnet_case() | mlp_case() | similarity_case()
    for name, tensors in [("layers", expected), ("layers.weights", weights)]:
        tensors = {k: v.detach().contiguous() for k, v in tensors.items()}
        path = GOLDEN / f"{name}.safetensors"
        if check:
            compare(path, tensors)
        else:
            save_file(tensors, path)
            path.chmod(0o644)
            print(f"{path.stat().st_size:,} bytes in {path.name}")


if __name__ == "__main__":
    sys.exit(main())
