#!/usr/bin/env python3
"""Writes tests/golden/masks.safetensors: RISE, Sobol indices, HSIC, extremal and meaningful
perturbation on the small networks of golden.py.

    python tests/reference/masks.py

The random masks are the project's own: `uniform` draws the numbers of its ChaCha8 streams.
What is done with them comes from the methods' definitions and peers: RISE's masks from
scikit-image's `resize`, as its authors make them; the Sobol sequence from scipy; the smooth
masks and the blur pyramid from TorchRay; means, indices and double sums from numpy.
"""

import sys
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from golden import GOLDEN, Mlp, SeriesNet, SmallResNet
from safetensors.torch import load_file, save_file
from scipy.stats import qmc
from skimage.transform import resize
from torch import nn
from torchray.attribution.extremal_perturbation import MaskGenerator, Perturbation, extremal_perturbation
from torchvision.models.resnet import BasicBlock

M32 = 0xFFFFFFFF


def chacha8(key, stream, block):
    """One block of 16 words: Bernstein's ChaCha, eight rounds, 64-bit counter and stream."""
    words = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *key]
    words += [block & M32, block >> 32, stream & M32, stream >> 32]
    x = list(words)

    def quarter(a, b, c, d):
        for p, q, r, bits in (a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7):
            x[p] = (x[p] + x[q]) & M32
            v = x[r] ^ x[p]
            x[r] = (v << bits | v >> (32 - bits)) & M32

    for _ in range(4):
        for column in range(4):
            quarter(column, 4 + column, 8 + column, 12 + column)
        for column in range(4):
            quarter(column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4)
    return [(a + b) & M32 for a, b in zip(x, words)]


def words(seed, stream):
    """The 32-bit words of a stream; the key is the seed spread by PCG32."""
    key, state = [], seed
    for _ in range(8):
        state = (state * 0x5851F42D4C957F2D + 0xA17654E46FBE17F3) % 2**64
        v, turn = ((state >> 18 ^ state) >> 27) & M32, state >> 59
        key.append((v >> turn | v << (32 - turn)) & M32)
    block = 0
    while True:
        yield from chacha8(key, stream, block)
        block += 1


def uniform(seed, stream):
    """53-bit numbers in [0, 1)."""
    source = words(seed, stream)
    while True:
        low, high = next(source), next(source)
        yield ((high << 32 | low) >> 11) / 2**53


# RISE


def rise_mask(shape, grid, p, seed, sample):
    draw = uniform(seed, sample)
    cells = np.array([next(draw) < p for _ in range(grid ** len(shape))], float)
    cell = [-(-n // grid) for n in shape]
    up = resize(cells.reshape([grid] * len(shape)), [(grid + 1) * c for c in cell], order=1, mode="reflect",
                anti_aliasing=False)
    shifts = [int(next(draw) * c) for c in cell]
    return up[tuple(slice(s, s + n) for s, n in zip(shifts, shape))]


def rise(score, masks, p):
    """Both weightings and their standard errors, of scores [n] under masks [n, ...]."""
    f = np.array([score(m) for m in masks]).reshape(-1, *[1] * (masks.ndim - 1))
    n = len(masks)
    observed = (f * masks).sum(0) / masks.sum(0)
    return {
        "expected": (f * masks).mean(0) / p,
        "expected.error": (f * masks).std(0, ddof=1) / np.sqrt(n) / p,
        "observed": observed,
        "observed.error": np.sqrt(((masks * (f - observed)) ** 2).sum(0) * n / (n - 1)) / masks.sum(0),
    }


# Sobol and HSIC


def sobol_points(n, dimensions, seed=None):
    """32-bit Sobol points, xored with a word of the seed for each dimension."""
    points = (qmc.Sobol(dimensions, scramble=False, bits=32).random(n) * 2**32).astype(np.uint64)
    if seed is not None:
        source = words(seed, 0)
        points ^= np.array([next(source) for _ in range(dimensions)], np.uint64)
    return points / 2**32


def sobol_indices(score, n, dimensions, seed):
    points = sobol_points(n, 2 * dimensions, seed)
    a_points, b_points = points[:, :dimensions], points[:, dimensions:]
    a, b = (np.array([score(m) for m in side]) for side in (a_points, b_points))
    estimators = {
        "jansen": lambda a, c: ((a - c) ** 2).mean() / 2 / a.var(ddof=1),
        "homma": lambda a, c: 1 - ((a * c).mean() - a.mean() ** 2) / a.var(ddof=1),
        "janon": lambda a, c: 1 - ((a * c).mean() - ((a + c).mean() / 2) ** 2)
        / (((a**2 + c**2).mean() / 2) - ((a + c).mean() / 2) ** 2),
        "glen": lambda a, c: 1 - np.corrcoef(a, c)[0, 1],
    }
    out = {name: np.zeros(dimensions) for name in [*estimators, "first", "jansen.error"]}
    for i in range(dimensions):
        c_points = a_points.copy()
        c_points[:, i] = b_points[:, i]
        c = np.array([score(m) for m in c_points])
        for name, estimator in estimators.items():
            out[name][i] = estimator(a, c)
        # Jansen's own first-order form.
        out["first"][i] = 1 - ((b - c) ** 2).mean() / 2 / b.var(ddof=1)
        without = np.array([estimators["jansen"](np.delete(a, j), np.delete(c, j)) for j in range(n)])
        out["jansen.error"][i] = np.sqrt((n - 1) * without.var())
    return out


def hsic(score, points, kernel, width):
    """The centred double sums, written out."""
    n, dimensions = points.shape
    f = np.array([score(m) for m in points])
    distances = np.abs(f[:, None] - f[None])
    if width == "median_distance":
        width = np.median(distances[np.triu_indices(n, 1)])
    elif width == "median_score":
        width = np.median(f)
    outputs = np.exp(-(distances**2) / 2 / width**2)
    centre = np.eye(n) - 1 / n
    out = []
    for i in range(dimensions):
        x, y = points[:, i, None], points[None, :, i]
        if kernel == "binary":
            k = 0.5 - (x - y) ** 2
        elif kernel == "rbf":
            k = np.exp(-((x - y) ** 2) / 2 / 0.5**2)
        else:
            d = np.abs(x - y)
            k = (d**2 - d + 1 / 6) / 2 + (x - 0.5) * (y - 0.5)
        out.append(np.trace(k @ centre @ outputs @ centre) / (n - 1) ** 2)
    return np.array(out)


# Optimised masks


def shared_reference(mask, area):
    """What sorted values are compared with, at the values' own places; values equal within
    1e-6 have the mean of their references."""
    values, order = mask.detach().double().sort()
    reference = torch.ones(len(values), dtype=torch.float64)
    reference[: int(len(values) * (1 - area))] = 0
    out, start = torch.empty_like(reference), 0
    while start < len(values):
        end = start + int((values[start:] <= values[start] + 1e-6).sum())
        out[order[start:end]] = reference[start:end].mean()
        start = end
    return out.to(mask.dtype)


def extremal(model, x, target, areas, steps, step, sigma, max_blur, variant):
    """TorchRay's loop around its own mask generator and pyramid, with ties shared; from its
    f32 weights and blurs on in f64."""
    pyramid = Perturbation(x.float(), max_blur=max_blur)
    pyramid.pyramid = pyramid.pyramid.double()
    generator = MaskGenerator(x.shape[2:], step, sigma)
    generator.weight = generator.weight.double()
    parameters = torch.ones(len(areas), 1, *generator.shape_in, dtype=torch.float64)
    optimiser = torch.optim.SGD([parameters], lr=0.01, momentum=0.9, dampening=0.9)
    weight = 300
    for t in range(steps):
        parameters.requires_grad_(True)
        cropped, full = generator.generate(parameters)
        seen = {
            "preserve": lambda: pyramid.apply(cropped),
            "delete": lambda: pyramid.apply(1 - cropped),
            "dual": lambda: torch.cat((pyramid.apply(cropped), pyramid.apply(1 - cropped))),
        }[variant]()
        if t % 2 == 0:
            seen = seen.flip(3)
        y = model(seen)[:, target]
        reward = {"preserve": y, "delete": -y, "dual": y[: len(areas)] - y[-len(areas) :]}[variant]
        full = full.reshape(len(areas), -1)
        reference = torch.stack([shared_reference(m, a) for m, a in zip(full, areas)])
        regularised = ((full - reference) ** 2).mean(1) * weight
        optimiser.zero_grad()
        (regularised - reward).sum().backward()
        optimiser.step()
        parameters.data = parameters.data.clamp(0, 1)
        weight *= 1.0035
    return cropped.detach().mean(0, keepdim=True)


class Square(nn.Module):
    """How well a square of the picture fits a checkerboard."""

    def forward(self, x):
        checks = torch.tensor([[(-1.0) ** (i + j) for j in range(6)] for i in range(6)])
        return (x[:, :, 4:10, 12:18] * checks).flatten(1).mean(1, keepdim=True) * 10


def meaningful(model, x, fill, target, cells, steps):
    mask = torch.ones(1, 1, cells, cells, dtype=x.dtype)
    optimiser = torch.optim.Adam([mask], lr=0.1)
    for _ in range(steps):
        mask.requires_grad_(True)
        up = F.interpolate(mask, x.shape[2:], mode="bilinear", align_corners=False)
        variation = sum(mask.diff(dim=d).abs().pow(3).sum() for d in (2, 3))
        loss = model(x * up + fill * (1 - up))[0, target] + 1e-4 * (1 - mask).sum() + 1e-2 * variation
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        mask = mask.detach().clamp_(0, 1)
        optimiser.param_groups[0]["params"], optimiser.state = [mask], {mask: next(iter(optimiser.state.values()))}
    return 1 - F.interpolate(mask, x.shape[2:], mode="bilinear", align_corners=False)


def network(name, model):
    model.requires_grad_(False).load_state_dict(load_file(GOLDEN / f"{name}.weights.safetensors"), strict=False)
    return model.double().eval(), load_file(GOLDEN / f"{name}.safetensors")["input"].double()[:1]


def main():
    warnings.filterwarnings("ignore", message="The balance properties of Sobol")
    warnings.filterwarnings("ignore", message="torch.meshgrid")
    weights = {name: load_file(GOLDEN / f"{name}.weights.safetensors") for name in ("mlp", "series")}
    (hidden, features), classes = weights["mlp"]["fc1.weight"].shape, len(weights["mlp"]["fc3.weight"])
    mlp, row = network("mlp", Mlp(features, hidden, classes))
    channels, steps = weights["series"]["conv1.weight"].shape[:2]
    series, sequence = network("series", SeriesNet(steps, channels, len(weights["series"]["fc.weight"])))
    resnet, image = network("small_resnet_basic", SmallResNet(BasicBlock, [2, 1, 1, 1], width=4, classes=3))
    out = {}

    def scorer(model, x, target, expand):
        @torch.no_grad()
        def score(mask):
            m = expand(torch.as_tensor(mask, dtype=torch.float64))
            return model(x * m)[0, target].item()

        return score

    masks = np.stack([rise_mask((32, 32), 5, 0.4, 11, s) for s in range(40)])
    found = rise(scorer(resnet, image, 1, lambda m: m), masks, 0.4)
    out |= {f"rise.image.{k}": v for k, v in found.items()}
    masks = np.stack([rise_mask(sequence.shape[1:2], 4, 0.5, 3, s) for s in range(30)])
    found = rise(scorer(series, sequence, 0, lambda m: m[None, :, None]), masks, 0.5)
    out |= {f"rise.series.{k}": v for k, v in found.items()}

    def kept(sample):
        draw = uniform(5, sample)
        return [float(next(draw) < 0.6) for _ in range(features)]

    masks = np.array([kept(s) for s in range(25)])
    found = rise(scorer(mlp, row, 1, lambda m: m), masks, 0.6)
    out |= {f"rise.table.{k}": v for k, v in found.items()}

    def nearest(m):
        return m.reshape(4, 4).repeat_interleave(8, 0).repeat_interleave(8, 1)

    def linear(m):
        return F.interpolate(m.reshape(1, 1, 4, 4), (32, 32), mode="bilinear", align_corners=False)

    out["sobol.points"] = (qmc.Sobol(256, scramble=False).random(32) * 32).astype(np.float32)
    found = sobol_indices(scorer(resnet, image, 1, nearest), 8, 16, 7)
    out |= {f"sobol.image.{k}": v for k, v in found.items()}
    out["sobol.linear"] = sobol_indices(scorer(resnet, image, 1, linear), 8, 16, 7)["jansen"]
    found = sobol_indices(scorer(mlp, row, 1, lambda m: m), 16, features, 2)
    out |= {f"sobol.table.{k}": v for k, v in found.items()}

    points = sobol_points(40, 16, 9)
    score = scorer(resnet, image, 1, nearest)
    out["hsic.binary"] = hsic(score, np.round(points), "binary", "median_distance")
    out["hsic.rbf"] = hsic(score, points, "rbf", "median_score")
    out["hsic.sobolev"] = hsic(score, points, "sobolev", 0.3)

    out["meaningful"] = meaningful(lambda x: resnet(x).softmax(1), image, image * 0.25, 1, 8, 12).numpy()
    for variant in ("preserve", "delete", "dual"):
        found = extremal(resnet, image, 1, [0.1, 0.3], 12, 2, 3.2, 3.5, variant)
        out[f"extremal.{variant}"] = found.numpy()
    checks = torch.tensor([[(-1.0) ** (i + j) for j in range(24)] for i in range(24)])[None, None]
    found, _ = extremal_perturbation(
        Square(), checks, 0, areas=[1 / 16], perturbation="fade", step=1, sigma=2.25, jitter=False, max_iter=800
    )
    out["extremal.square"] = found.numpy()
    tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in out.items()}
    save_file(tensors, GOLDEN / "masks.safetensors")
    print(f"{len(tensors)} tensors, {(GOLDEN / 'masks.safetensors').stat().st_size} bytes")


if __name__ == "__main__":
    sys.exit(main())
