#!/usr/bin/env python3
"""The same work as `saliency explain`, as one writes it with PyTorch and Captum.

    peer.py explain resnet50|demo WEIGHTS PHOTO OUT.npy [--samples N] [--seed N]

`explain` writes the signed gradient [3, H, W] of the predicted class; with `--samples` the
SmoothGrad of its magnitude. Weights do not require gradients, which is PyTorch's best case. It
prints one line of JSON; the seconds in it count from the first line of this script, so
they leave out the start of the interpreter.
"""

import time

START = time.perf_counter()

import argparse
import json

import numpy as np
import torch
from captum.attr import NoiseTunnel, Saliency
from PIL import Image
from torch import nn
from torchvision import models, transforms

IMPORTED = time.perf_counter()
IMAGENET = ((224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DEMO = ((96, 96), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (option A)."""

    def __init__(self, channels, planes):
        super().__init__()
        stride = 1 if channels == planes else 2
        self.conv1 = nn.Conv2d(channels, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.missing = planes - channels

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.missing:
            before = self.missing // 2
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, self.missing - before))
        return torch.relu(y + x)


class DemoNet(nn.Module):
    """The demo model: a CIFAR ResNet of depth 14 with a stem of stride 3."""

    def __init__(self, width=16, blocks=2, classes=12):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 3, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stage = lambda i, o: nn.Sequential(*(BasicBlock(o if k else i, o) for k in range(blocks)))
        self.layer1 = stage(width, width)
        self.layer2 = stage(width, 2 * width)
        self.layer3 = stage(2 * width, 4 * width)
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def load(architecture, weights):
    if weights.endswith(".safetensors"):
        from safetensors.torch import load_file

        state = load_file(weights)
    else:
        state = torch.load(weights, weights_only=True)
    model = models.resnet50() if architecture == "resnet50" else DemoNet()
    model.load_state_dict(state, strict=architecture == "resnet50")
    return model.eval().requires_grad_(False)


def explain(args):
    stamps = {"import": IMPORTED - START}
    last = IMPORTED

    def stamp(name):
        nonlocal last
        now = time.perf_counter()
        stamps[name], last = now - last, now

    model = load(args.architecture, args.weights)
    stamp("model")
    size, mean, std = IMAGENET if args.architecture == "resnet50" else DEMO
    preprocess = transforms.Compose(
        [transforms.Resize(size), transforms.ToTensor(), transforms.Normalize(mean, std)]
    )
    x = preprocess(Image.open(args.photo).convert("RGB")).unsqueeze(0)
    stamp("photo")
    with torch.no_grad():
        target = model(x).argmax(1)
    saliency = Saliency(model)
    x.requires_grad_()
    if args.samples:
        torch.manual_seed(args.seed)
        sigma = 0.1 * (x.max() - x.min()).item()
        values = NoiseTunnel(saliency).attribute(
            x, nt_type="smoothgrad", nt_samples=args.samples, stdevs=sigma, target=target
        )
    else:
        values = saliency.attribute(x, target=target, abs=False)
    stamp("attribution")
    np.save(args.out, values[0].detach().numpy())
    stamp("save")
    print(json.dumps({"class": target.item(), "phases": stamps}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("explain")
    command.add_argument("architecture", choices=["resnet50", "demo"])
    command.add_argument("weights")
    command.add_argument("photo")
    command.add_argument("out")
    command.add_argument("--samples", type=int, default=0)
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=explain)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
