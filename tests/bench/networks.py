#!/usr/bin/env python3
"""The networks of the benchmark in PyTorch, with random weights, and its input.

    networks.py OUT_DIR

writes NAME.safetensors for each network, resnet50.pth, photo.jpg (a synthetic photograph of
1280x960 pixels), and inputs.safetensors: `images-SIDE`, f32 [12, 3, SIDE, SIDE], from noise as
smooth as a photograph to noise of single pixels.

BatchNorm statistics are measured on such noise (tests/reference/golden.py), so that activations
keep their size at any depth. The vision transformer is the one of the Rust example `bench`, with
its names; attention is PyTorch's own `scaled_dot_product_attention`.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, Bottleneck

from peer import DemoNet

SIDES = (112, 224, 336, 448)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        split = lambda t: t.unflatten(2, (self.heads, -1)).transpose(1, 2)
        found = F.scaled_dot_product_attention(split(self.query(x)), split(self.key(x)), split(self.value(x)))
        return self.output(found.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear_inner, self.linear_outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return self.linear_outer(F.gelu(self.linear_inner(x)))


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.mha, self.pwff = Attention(width, heads), FeedForward(width)
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x):
        x = x + self.mha(self.norm_2(x))
        return x + self.pwff(self.norm_1(x))


class ViT(nn.Module):
    """ViT-S/16 for 224x224: 12 layers of 6 heads, 384 wide."""

    def __init__(self, width=384, heads=6, depth=12, classes=1000):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(0.5 * torch.randn(1, 1, width))
        self.places = nn.Parameter(0.5 * torch.randn(1, 1 + 14 * 14, width))
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(Layer(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.places
        for layer in self.encoder.layers:
            tokens = layer(tokens)
        return self.head(self.norm(tokens[:, 0]))


NETWORKS = {
    "resnet18": models.resnet18,
    "resnet50": models.resnet50,
    "squeezenet1_1": models.squeezenet1_1,
    "vit": ViT,
}


class SeparateBasic(BasicBlock):
    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + identity)


class SeparateBottleneck(Bottleneck):
    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        return self.relu3(self.bn3(self.conv3(out)) + identity)


class Apart(nn.Module):
    """Another tensor of the same values."""

    def forward(self, x):
        return x + 0


def for_hooks(model):
    """What Captum asks of a model for Guided Backprop and DeepLIFT: each ReLU is a module of its
    own and not in place; and a max pool takes another tensor than a ReLU made."""
    for module in list(model.modules()):
        if isinstance(module, (BasicBlock, Bottleneck)):
            wide = isinstance(module, Bottleneck)
            module.__class__ = SeparateBottleneck if wide else SeparateBasic
            del module.relu
            module.relu1, module.relu2 = nn.ReLU(), nn.ReLU()
            if wide:
                module.relu3 = nn.ReLU()
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    if isinstance(model, models.ResNet):
        model.maxpool = nn.Sequential(Apart(), model.maxpool)
    return model


DEMO = Path(__file__).resolve().parents[2] / "models" / "demo.safetensors"


def load(name, folder):
    from safetensors.torch import load_file

    if name == "demo":
        model, path = DemoNet(), DEMO
    else:
        model, path = NETWORKS[name](), Path(folder) / f"{name}.safetensors"
    model.load_state_dict(load_file(path), strict=name != "demo")
    return model.eval().requires_grad_(False)


def main():
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "reference"))
    from golden import randomise_batch_norm
    from PIL import Image
    from resnet50 import noise_images, synthetic_photo
    from safetensors.torch import save_file

    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for name, make in NETWORKS.items():
        torch.manual_seed(50)
        model = make()
        if name.startswith("resnet"):
            randomise_batch_norm(model, noise_images())
            nn.init.normal_(model.fc.weight, 0.0, 0.05)
        weights = {k: v.contiguous() for k, v in model.state_dict().items()}
        save_file(weights, out / f"{name}.safetensors")
        if name == "resnet50":
            torch.save(weights, out / "resnet50.pth")
    synthetic_photo().resize((1280, 960), Image.BICUBIC).save(out / "photo.jpg", quality=92)
    torch.manual_seed(51)
    images = noise_images()
    resized = {f"images-{side}": F.interpolate(images, side, mode="bilinear", antialias=True) for side in SIDES}
    save_file({k: v.contiguous() for k, v in resized.items()}, out / "inputs.safetensors")


if __name__ == "__main__":
    main()
