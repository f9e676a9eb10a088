#!/usr/bin/env python3
"""Writes tests/golden/finance.safetensors: what Captum answers for the LSTM of deeplift.py, and
what the other scripts leave out for the convolution over time of golden.py.

    python tests/reference/finance.py            # write
    python tests/reference/finance.py --check    # compare what is there with what would be written

The table network has all its values in the files of golden.py, paths.py, ablation.py,
deeplift.py and lrp.py. Neither Captum nor zennit has LRP for an LSTM, whose gates multiply.
Everything is computed in f64 but where Captum itself goes through f32 (see ablation.py).
"""

import argparse
import sys
import warnings

import torch
from ablation import network, occlude, perturbations
from captum.attr import FeatureAblation, InputXGradient
from deeplift import UnrolledLstm
from golden import GOLDEN, SeriesNet, agree, compare, input_gradient, noise_for, smoothgrad
from paths import gradient_shap, integrated
from safetensors.torch import load_file, save_file
from torch import nn


class LstmNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 5, batch_first=True)
        self.fc = nn.Linear(5, 4)

    def forward(self, x):
        return self.fc(self.lstm(x)[1][0][0])


def sources_over_windows(steps, window, sources):
    """Windows of steps side by side, in each of which the columns of one source are one group."""
    count = max(sources) + 1
    return torch.tensor([[[step // window * count + s for s in sources] for step in range(steps)]])


def lstm_case():
    stored = load_file(GOLDEN / "deeplift.safetensors")
    weights = {k.removeprefix("lstm.weights."): v for k, v in stored.items() if k.startswith("lstm.weights.")}
    model = LstmNet()
    model.load_state_dict(weights)
    unrolled = UnrolledLstm(features=3, hidden=5, classes=4, steps=6)
    unrolled.load_state_dict(weights)
    model, unrolled, x = model.double().eval(), unrolled.double(), stored["lstm.input"].double()
    agree("logits", stored["lstm.logits"], unrolled(x))
    target = torch.arange(4)
    out = {"lstm.gradient": input_gradient(model, x, target)}
    out["lstm.input_x_gradient"] = InputXGradient(model).attribute(x, target=target)
    # A forecast: the mean of the outputs 1 and 2, and one of them alone.
    leaf = x.clone().requires_grad_()
    out["lstm.horizon"] = torch.autograd.grad(model(leaf)[:, 1:3].mean(1).sum(), leaf)[0]
    out["lstm.one_output"] = input_gradient(model, x, torch.full((4,), 2))
    out |= {f"lstm.{k}": v for k, v in smoothgrad(model, x[:1], target[:1], noise_for(x[:1], 4)).items()}
    shift = torch.linspace(-1, 1, 18).double().reshape(1, 6, 3)
    out["lstm.shift"] = shift
    baselines = {"zero": None, "shift": shift.expand_as(x)}
    out |= integrated("lstm", model, x, target, ["gausslegendre", "riemann_trapezoid"], baselines)
    out |= gradient_shap("lstm", model, x[:1], 1, torch.randn(4, 6, 3).double())

    predicted = model(x).argmax(1)
    mask = sources_over_windows(6, 2, [0, 0, 1])
    out |= perturbations("lstm", model, x, predicted, mask, 0.25)
    out["lstm.occlusion.time"] = occlude(model, x, predicted, (2, 3), (1, 3), 0.25)
    out["lstm.occlusion.feature"] = occlude(model, x, predicted, (3, 1), (2, 1), 0.0)
    return out


def series_case():
    model, x, target = network("series", SeriesNet(features=3, channels=8, classes=2))
    out = gradient_shap("series", model, x[:1], 1, torch.randn(4, 24, 3).float().double())
    out["series.occlusion.time"] = occlude(model, x, target, (5, 3), (1, 3), 0.0)
    out["series.occlusion.feature"] = occlude(model, x, target, (24, 1), (24, 1), 0.0)
    groups = torch.tensor([0, 1, 1]).expand(1, 24, 3)
    out["series.over_time"] = FeatureAblation(model).attribute(x, target=target, feature_mask=groups)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(8)
    tensors = {}
    for case in [lstm_case, series_case]:
        print(case.__name__)
        tensors |= case()
    tensors = {k: v.detach().contiguous() for k, v in tensors.items()}
    path = GOLDEN / "finance.safetensors"
    if check:
        compare(path, tensors)
    else:
        save_file(tensors, path)
        path.chmod(0o644)
    print(f"{path.stat().st_size:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
