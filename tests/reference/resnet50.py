#!/usr/bin/env python3
"""Writes a full-size ResNet50 with PyTorch's answers for it, for tests/resnet50.rs.

    python tests/reference/resnet50.py [OUT_DIR]     # default target/reference/resnet50

torchvision initialises the network under a fixed seed; its BatchNorm statistics are
measured on noise of several scales and jittered (see golden.py). Into OUT_DIR go

    resnet50.pth, resnet50.safetensors   the same weights, about 98 MB each
    photo.png                            a synthetic 224x224 photograph
    reference.safetensors                per input NAME (photo, random, noise-0, ..., and real
                                         where a photograph of your own is given with --image):
        NAME.input                       f32 [1, 3, 224, 224]
        NAME.logits, NAME.gradient       f64 run; the gradient is of the predicted class
        NAME.logits_f32, NAME.gradient_f32   PyTorch's own f32 run, same class
        NAME.distances               how far PyTorch's f32 gradients are from the f64 one,
                                     relative L2, over its own ways to compute them

Deep ReLU networks are touchy in f32: a pre-activation on the wrong side of zero changes
whole paths of the gradient. How far PyTorch's own f32 gradient is from its f64 one is the
yardstick for that. At one input that distance is a matter of luck (for the photo 3e-3 with
one convolution kernel, 1.2e-2 with another), so it is taken over PyTorch's own kernels, memory
layouts and thread counts, and averaged over many inputs besides.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch
from golden import input_gradient, randomise_batch_norm, relative_l2
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import models, transforms

OUT = Path(__file__).resolve().parents[2] / "target" / "reference" / "resnet50"
SEED = 50
SIDE = 224
preprocess = transforms.Compose(
    [
        transforms.Resize((SIDE, SIDE)),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
)


def synthetic_photo():
    """Sky, ground, a shaded ball with its shadow, grass-like texture, sensor noise."""
    rng = np.random.default_rng(SEED)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1)
    pixels = np.stack([0.45 + 0.3 * y, 0.6 + 0.25 * y, 0.95 - 0.1 * y])
    texture = sum(rng.normal() * np.sin(2 * np.pi * (f * x + rng.random() + 3 * f * y)) for f in (5, 11, 23, 41))
    ground = np.stack([0.25 + 0.03 * texture, 0.45 + 0.06 * texture, 0.15 + 0.02 * texture])
    pixels = np.where(y > 0.62, ground, pixels)
    shadow = ((x - 0.62) / 0.26) ** 2 + ((y - 0.80) / 0.05) ** 2
    pixels = pixels * (1 - 0.5 * np.exp(-shadow))
    u, v = (x - 0.5) / 0.24, (y - 0.55) / 0.24
    height = np.sqrt(np.clip(1 - u**2 - v**2, 0, None))
    light = 0.25 + 0.75 * np.clip((-0.5 * u - 0.6 * v + 0.62 * height), 0, 1)
    pixels = np.where(height > 0, np.stack([0.85 * light, 0.25 * light, 0.2 * light + 0.5 * light**8]), pixels)
    pixels = pixels + 0.015 * rng.normal(size=pixels.shape)
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0))


def noise_images():
    """Noise from 7x7 blobs, as smooth as a photograph, to single pixels: [12, 3, SIDE, SIDE]."""
    sides = (7, 14, 28, 56, 112, 224)
    coarse = [torch.randn(2, 3, side, side) for side in sides]
    return torch.cat([nn.functional.interpolate(c, SIDE, mode="bicubic") for c in coarse])


def network():
    torch.manual_seed(SEED)
    model = models.resnet50(weights=None)
    randomise_batch_norm(model, noise_images())
    with torch.no_grad():
        model.fc.weight.normal_(0.0, 0.05)
    return model.eval()


def ways():
    """PyTorch's own ways to compute the same convolutions: (mkldnn, memory format, threads)."""
    threads = torch.get_num_threads()
    layouts = (torch.contiguous_format, torch.channels_last)
    for mkldnn, layout, count in itertools.product((True, False), layouts, {1, threads}):
        torch.set_num_threads(count)
        with torch.backends.mkldnn.flags(enabled=mkldnn):
            yield layout
    torch.set_num_threads(threads)


def distances(model, x, target, gradient):
    got = [
        input_gradient(model.to(memory_format=layout), x.to(memory_format=layout), target)
        for layout in ways()
    ]
    model.to(memory_format=torch.contiguous_format)
    return torch.tensor([relative_l2(g, gradient) for g in got], dtype=torch.float64)


def answers(model, x):
    with torch.no_grad():
        logits = model.double()(x.double())
    target = logits.argmax(1)
    gradient = input_gradient(model, x.double(), target)
    with torch.no_grad():
        logits_f32 = model.float()(x)
    return {
        "input": x,
        "logits": logits,
        "gradient": gradient,
        "logits_f32": logits_f32,
        "gradient_f32": input_gradient(model, x, target),
        "distances": distances(model, x, target, gradient),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", default=OUT)
    parser.add_argument("--image", type=Path, help="a photograph of your own, as a third input")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.use_deterministic_algorithms(True)

    model = network()
    weights = {k: v.contiguous() for k, v in model.state_dict().items()}
    torch.save(weights, args.out / "resnet50.pth")
    save_file(weights, args.out / "resnet50.safetensors")

    photo = synthetic_photo()
    photo.save(args.out / "photo.png")
    inputs = {"photo": preprocess(photo), "random": torch.randn(3, SIDE, SIDE)}
    inputs |= {f"noise-{i}": x for i, x in enumerate(noise_images())}
    if args.image:
        inputs["real"] = preprocess(Image.open(args.image).convert("RGB"))

    reference, own = {}, []
    for name, x in inputs.items():
        got = answers(model, x.unsqueeze(0))
        reference |= {f"{name}.{k}": v.contiguous() for k, v in got.items()}
        own.append(got["distances"].mean().item())
        print(
            f"{name}: logits {got['logits'].min():.2f} to {got['logits'].max():.2f}, "
            f"class {got['logits'].argmax()}, |gradient| up to {got['gradient'].abs().max():.2e}; "
            f"f32 from f64: logits {relative_l2(got['logits_f32'], got['logits']):.1e}, "
            f"gradient {got['distances'].min():.1e} to {got['distances'].max():.1e}"
        )
    save_file(reference, args.out / "reference.safetensors")
    print(f"f32 gradients are {np.mean(own):.1e} from f64 on average; wrote {args.out}")


if __name__ == "__main__":
    main()
