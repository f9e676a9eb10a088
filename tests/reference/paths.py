#!/usr/bin/env python3
"""Writes tests/golden/paths.safetensors: what Captum, PAIR saliency and scikit-image answer
for methods that follow a path, on the networks that golden.py made.

    python tests/reference/paths.py

Everything is computed in f64 from weights and inputs that are exact in f32.
"""

import warnings
from unittest import mock

import numpy as np
import saliency.core as pair
import torch
from captum.attr import GradientShap, IntegratedGradients
from golden import GOLDEN, Mlp, SeriesNet, SmallResNet
from safetensors.torch import load_file, save_file
from skimage.segmentation import felzenszwalb
from torchvision.models.resnet import BasicBlock

RULES = ["gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid"]

# The first samples of the seed 0 (pinned by a test in sampling.rs): which baseline, which alpha.
DRAWS = np.array(
    [
        [0.12996015354223434, 0.9110651284467672],
        [0.023409427249638903, 0.8245538673496721],
        [0.5891800535772341, 0.14206159573568178],
        [0.8663763198090609, 0.790480511998116],
        [0.029890054446980452, 0.925543895328666],
        [0.5084068851097866, 0.37111424599176146],
    ]
)

_quantile = np.quantile


def quantile(a, q, interpolation=None, **options):
    """numpy 2.4 dropped the old name of `method`, which PAIR saliency 0.2.1 uses."""
    return _quantile(a, q, method=interpolation or options.pop("method", "linear"), **options)


def load(name, model):
    model.load_state_dict(load_file(GOLDEN / f"{name}.weights.safetensors"))
    return model.double().eval(), load_file(GOLDEN / f"{name}.safetensors")["input"].double()


def integrated(prefix, model, x, target, rules, baselines):
    out = {}
    for rule in rules:
        for kind, baseline in baselines.items():
            values, delta = IntegratedGradients(model).attribute(
                x, baselines=baseline, target=target, n_steps=12, method=rule, return_convergence_delta=True
            )
            out |= {f"{prefix}.ig.{rule}.{kind}": values, f"{prefix}.ig.{rule}.{kind}.delta": delta}
    return out


def gradient_shap(prefix, model, x, target, baselines):
    """Captum's GradientShap, handed the draws of this project."""
    index = np.minimum((DRAWS[:, 0] * len(baselines)).astype(int), len(baselines) - 1)
    with (
        mock.patch("numpy.random.choice", lambda *_: index),
        mock.patch("numpy.random.uniform", lambda *_: DRAWS[:, 1]),
    ):
        values = GradientShap(model).attribute(x, baselines=baselines, n_samples=len(DRAWS), target=target)
    return {f"{prefix}.gradient_shap": values, f"{prefix}.gradient_shap.baselines": baselines}


def call_model(model, target):
    """PAIR's view of the model: batches of H x W x C pictures."""

    def call(batch, call_model_args=None, expected_keys=None):
        x = torch.as_tensor(np.asarray(batch)).permute(0, 3, 1, 2).requires_grad_()
        model(x)[:, target].sum().backward()
        return {pair.INPUT_OUTPUT_GRADIENTS: x.grad.permute(0, 2, 3, 1).numpy()}

    return call


def planes(picture):
    return torch.as_tensor(np.ascontiguousarray(np.moveaxis(picture, -1, 0)))[None]


def picture_methods(model, x, target):
    call, picture = call_model(model, target), x[0].permute(1, 2, 0).numpy()
    out = {
        "resnet.blur_ig": planes(pair.BlurIG().GetMask(picture, call, max_sigma=8, steps=20)),
        "resnet.blur_ig.sqrt": planes(pair.BlurIG().GetMask(picture, call, max_sigma=8, steps=5, sqrt=True)),
        "resnet.ig_pair": planes(pair.IntegratedGradients().GetMask(picture, call)),
    }
    with mock.patch("numpy.quantile", quantile):
        for name, options in {"near": {"x_steps": 30}, "far": {"x_steps": 20, "fraction": 0.1, "max_dist": 1.0}}.items():
            out[f"resnet.guided_ig.{name}"] = planes(pair.GuidedIG().GetMask(picture, call, **options))

    scaled = (picture - picture.min()) / (picture.max() - picture.min()) * 2 - 1
    labels = [felzenszwalb(scaled, scale=scale, sigma=0.8, min_size=12) for scale in (40, 120, 400)]
    masks = [label == l for label in labels for l in range(label.max() + 1)]
    print("XRAI regions:", len(masks))
    out["resnet.xrai.labels"] = torch.as_tensor(np.stack(labels)).float()
    for algorithm in ("full", "fast"):
        parameters = pair.XRAIParameters(steps=20, algorithm=algorithm)
        parameters.experimental_params["min_pixel_diff"] = 6
        values = pair.XRAI().GetMask(picture, call, segments=masks, extra_parameters=parameters)
        out[f"resnet.xrai.{algorithm}"] = torch.as_tensor(values)[None, None]
    return out


def segments():
    """scikit-image's segmentation of smooth stripes with noise, exactly between -1 and 1."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[0:40, 0:56]
    bands = [np.sin(x / 9 + y / 15), np.cos(y / 7), (x > 20) * (y > 12) * 1.5]
    picture = np.stack(bands, -1) + 0.08 * rng.normal(size=(40, 56, 3))
    picture = (picture - picture.min()) / (picture.max() - picture.min()) * 2 - 1
    picture = picture.astype(np.float32)
    assert picture.min() == -1 and picture.max() == 1
    scales = [10.0, 50.0, 250.0]
    labels = [felzenszwalb(picture.astype(np.float64), scale=s, sigma=0.8, min_size=20) for s in scales]
    print("segments:", [label.max() + 1 for label in labels])
    return {
        "segments.input": planes(picture),
        "segments.scales": torch.tensor(scales),
        "segments.labels": torch.as_tensor(np.stack(labels)).float(),
    }


def main():
    warnings.filterwarnings("ignore", message="Input Tensor 0 did not already require gradients")
    torch.set_num_threads(1)
    torch.manual_seed(3)
    out = segments()

    model, x = load("mlp", Mlp(features=9, hidden=16, classes=3))
    target = torch.arange(len(x)) % 3
    shift = torch.linspace(-1, 1, 9, dtype=torch.float64).float().double()[None]
    out["mlp.shift"] = shift
    out |= integrated("mlp", model, x, target, RULES, {"zero": None, "shift": shift.expand_as(x)})
    local = IntegratedGradients(model, multiply_by_inputs=False)
    out["mlp.ig.local"] = local.attribute(x, target=target, n_steps=12)
    out |= gradient_shap("mlp", model, x[:1], 1, torch.randn(4, 9).double())

    model, x = load("series", SeriesNet(features=3, channels=8, classes=2))
    out |= integrated("series", model, x, torch.arange(len(x)) % 2, RULES, {"zero": None})

    model, x = load("small_resnet_basic", SmallResNet(BasicBlock, [2, 1, 1, 1], width=4, classes=3))
    target = model(x).argmax(1).item()
    out |= integrated("resnet", model, x, target, RULES[:1] + RULES[-1:], {"zero": None})
    out |= picture_methods(model, x, target)

    path = GOLDEN / "paths.safetensors"
    out = {name: tensor.detach().contiguous() for name, tensor in out.items()}
    save_file(out, path)
    path.chmod(0o644)
    print(f"{path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
