#!/usr/bin/env python3
"""Writes tests/golden/ablation.safetensors: what Captum, PAIR's saliency and scikit-image
answer with the networks of golden.py, for methods that need scores only.

    python tests/reference/ablation.py            # write
    python tests/reference/ablation.py --check    # compare what is there with what would be written

Everything is computed in f64 but where Captum itself goes through f32 (the averages of
Occlusion, the sums of ShapleyValues, the samples of Lime). Random methods are not compared draw by draw: LIME over all
2^n samples is deterministic, as are permutations of two rows.
"""

import argparse
import itertools
import sys
import warnings

import numpy as np
import saliency.core as pair
import torch
from captum._utils.models.linear_model import SkLearnLasso, SkLearnRidge
from captum.attr import (
    FeatureAblation,
    FeaturePermutation,
    Lime,
    Occlusion,
    ShapleyValues,
)
from captum.attr._core.lime import get_exp_kernel_similarity_function
from golden import GOLDEN, Mlp, SeriesNet, SmallResNet, compare
from safetensors.torch import load_file, save_file
from skimage.segmentation import slic
from torchvision.models.resnet import BasicBlock


def network(name, model):
    model.load_state_dict(load_file(GOLDEN / f"{name}.weights.safetensors"))
    x = load_file(GOLDEN / f"{name}.safetensors")["input"].double()
    model = model.double().eval()
    return model, x, model(x).argmax(1)


def windows(shape, size):
    """The number of a window of `size` for each value: windows side by side, row-major."""
    grid = np.indices(shape)
    counts = [-(-n // s) for n, s in zip(shape, size)]
    ids = np.zeros(shape, dtype=int)
    for axis, s, count in zip(grid, size, counts):
        ids = ids * count + axis // s
    return torch.from_numpy(ids)[None]


def shapley(model, x, target, mask, baseline):
    return ShapleyValues(model).attribute(x, target=target, feature_mask=mask, baselines=baseline)


def all_sets(features):
    """A perturb_func for Lime that gives every sample of {0, 1}^features once."""

    def generator(original, **_):
        for bits in itertools.product([1, 0], repeat=features):
            yield torch.tensor([bits])

    return generator


def lime(model, x, target, mask, baseline, fit, similarity):
    features = int(mask.max()) + 1
    method = Lime(model, interpretable_model=fit, similarity_func=similarity, perturb_func=all_sets(features))
    rows = [
        method.attribute(
            x[i : i + 1], target=int(target[i]), feature_mask=mask, baselines=baseline, n_samples=2**features
        )
        for i in range(len(x))
    ]
    return torch.cat(rows)


def features_cosine(width):
    """The kernel of the authors' lime_image: cosine distance of the 0/1 vectors from all ones."""

    def similarity(original, perturbed, sample, **_):
        z = sample[0].double()
        norm = z.norm() * len(z) ** 0.5
        distance = 1 - z.sum() / norm.clamp(min=1e-12)
        return torch.exp(-(distance**2) / (2 * width**2)).reshape(1)

    return similarity


def perturbations(name, model, x, target, mask, baseline):
    out = {
        "feature_ablation": FeatureAblation(model).attribute(
            x, target=target, feature_mask=mask, baselines=baseline, perturbations_per_eval=4
        ),
        "shapley": shapley(model, x, target, mask, baseline),
        "lime.lasso": lime(
            model,
            x,
            target,
            mask,
            baseline,
            SkLearnLasso(alpha=0.01, tol=1e-10, max_iter=100_000),
            get_exp_kernel_similarity_function("cosine", 1.0),
        ),
        "lime.ridge": lime(model, x, target, mask, baseline, SkLearnRidge(alpha=1.0), features_cosine(0.25)),
        "lime.euclidean": lime(
            model,
            x,
            target,
            mask,
            baseline,
            SkLearnRidge(alpha=0.5),
            get_exp_kernel_similarity_function("euclidean", 3.0),
        ),
    }
    if len(x) > 1:
        pairs = [slice(i, i + 2) for i in range(0, len(x) - 1, 2)]
        swapped = [FeaturePermutation(model).attribute(x[p], target=target[p], feature_mask=mask) for p in pairs]
        out["feature_permutation"] = torch.cat(swapped)
    return {f"{name}.{k}": v for k, v in out.items()}


def occlude(model, x, target, window, stride, baseline):
    return Occlusion(model).attribute(
        x,
        target=target,
        sliding_window_shapes=window,
        strides=stride,
        baselines=baseline,
        perturbations_per_eval=8,
    )


def pairs_occlusion(model, x, target, size):
    def call(images, call_model_args=None, expected_keys=None):
        batch = torch.from_numpy(images).permute(0, 3, 1, 2)
        return {pair.OUTPUT_LAYER_VALUES: model(batch)[:, target].detach().numpy()}

    image = x[0].permute(1, 2, 0).numpy()
    mask = pair.Occlusion().GetMask(image, call, size=size)
    return torch.from_numpy(mask).permute(2, 0, 1)[None]


def one_channel(values):
    """All channels are alike where windows take them together."""
    assert (values == values[:, :1]).all()
    return values[:, :1]


def resnet_case():
    model, x, target = network("small_resnet_basic", SmallResNet(BasicBlock, [2, 1, 1, 1], 4, 3))
    mask = windows((3, 32, 32), (3, 16, 11))
    out = perturbations("resnet", model, x, target, mask, 0.25)
    out = {k: one_channel(v) for k, v in out.items()}
    out["resnet.occlusion"] = one_channel(occlude(model, x, target, (3, 7, 9), (3, 4, 5), 0.25))
    out["resnet.occlusion.channel"] = occlude(model, x, target, (1, 8, 8), (1, 8, 8), 0.0)
    out["resnet.occlusion.pair"] = one_channel(pairs_occlusion(model, x, int(target[0]), 15))
    return out


def mlp_case():
    model, x, target = network("mlp", Mlp(features=9, hidden=16, classes=3))
    mask = torch.tensor([[0, 1, 1, 2, 3, 0, 4, 4, 2]])
    out = perturbations("mlp", model, x, target, mask, -0.5)
    out["mlp.occlusion"] = occlude(model, x, target, (3,), (2,), -0.5)
    out["mlp.feature_ablation.each"] = FeatureAblation(model).attribute(x, target=target)
    return out


def series_case():
    model, x, target = network("series", SeriesNet(features=3, channels=8, classes=2))
    out = perturbations("series", model, x, target, windows((24, 3), (6, 3)), 0.0)
    out["series.occlusion"] = occlude(model, x, target, (5, 2), (3, 1), 0.5)
    return out


def boundary(labels):
    edge = np.zeros(labels.shape, dtype=bool)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return edge


def slic_case():
    """Blobs of colour with noise, their true regions, and skimage's superpixels of them."""
    rng = np.random.default_rng(4)
    y, x = np.indices((48, 64))
    regions = (
        ((y - 15) ** 2 + (x - 18) ** 2 < 130).astype(int)
        + 2 * ((y - 30) / 14 + (x - 44) / 17 > 0.4)
        + 4 * ((y - 38) ** 2 / 60 + (x - 16) ** 2 / 140 < 1)
    )
    _, regions = np.unique(regions, return_inverse=True)
    regions = regions.reshape(48, 64)
    colours = rng.random((regions.max() + 1, 3))
    picture = np.clip(colours[regions] + rng.normal(0, 0.04, (48, 64, 3)), 0, 1)
    # The whole range, which both implementations spread values over.
    picture = (picture - picture.min()) / (picture.max() - picture.min())
    picture = picture.astype(np.float32).astype(np.float64)
    labels = slic(picture, n_segments=40, compactness=20.0, start_label=0)
    print(f"  slic: {labels.max() + 1} segments, {boundary(labels).sum()} boundary pixels")
    return {
        "slic.picture": torch.from_numpy(picture.transpose(2, 0, 1)[None].copy()).float(),
        "slic.regions": torch.from_numpy(regions),
        "slic.labels": torch.from_numpy(labels),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tensors = {}
    for case in [resnet_case, mlp_case, series_case, slic_case]:
        print(case.__name__)
        tensors |= case()
    tensors = {k: v.detach().contiguous() for k, v in tensors.items()}
    path = GOLDEN / "ablation.safetensors"
    if check:
        compare(path, tensors)
    else:
        save_file(tensors, path)
        path.chmod(0o644)
    print(f"{path.stat().st_size:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
