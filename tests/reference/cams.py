#!/usr/bin/env python3
"""Writes tests/golden/cams.safetensors: class activation maps of pytorch-grad-cam and rule
methods of Captum for the small ResNet that golden.py made.

    python tests/reference/cams.py            # write
    python tests/reference/cams.py --check    # compare what is there with what would be written

Everything is computed in f64: numpy.float32 is replaced while pytorch-grad-cam runs, and its
scaling of maps to 0..1 is left out, so that maps are raw, after its ReLU, at the input's size.
Principal components have its sign correction, since numpy's sign is arbitrary.
"""

import argparse
import contextlib
import io
import sys
import warnings
from unittest import mock

import cv2
import numpy as np
import pytorch_grad_cam as cams
import torch
from captum.attr import Deconvolution, GuidedBackprop, GuidedGradCam, LayerAttribution, LayerGradCam
from golden import GOLDEN, BasicBlock, SmallResNet, agree, compare
from pytorch_grad_cam import base_cam, eigen_cam, eigen_grad_cam, fullgrad_cam
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection_with_sign_correction
from safetensors.torch import load_file, save_file
from torch import nn

LAYERS = ["layer1", "layer2", "layer3"]
OF_LAYERS = {
    "grad_cam": cams.GradCAM,
    "grad_cam_plus_plus": cams.GradCAMPlusPlus,
    "xgrad_cam": cams.XGradCAM,
    "hires_cam": cams.HiResCAM,
    "layer_cam": cams.LayerCAM,
    "eigen_cam": cams.EigenCAM,
    "eigen_grad_cam": cams.EigenGradCAM,
    "score_cam": cams.ScoreCAM,
    "ablation_cam": cams.AblationCAM,
}


def resized(maps, size=None):
    """pytorch-grad-cam's scale_cam_image without its scaling to 0..1."""
    return np.stack([cv2.resize(m, size) if size else m for m in maps])


@contextlib.contextmanager
def raw_and_in_f64():
    torch.set_default_dtype(torch.float64)
    with (
        mock.patch.object(np, "float32", np.float64),
        mock.patch.object(base_cam, "scale_cam_image", resized),
        mock.patch.object(fullgrad_cam, "scale_cam_image", resized),
        mock.patch.object(eigen_cam, "get_2d_projection", get_2d_projection_with_sign_correction),
        mock.patch.object(eigen_grad_cam, "get_2d_projection", get_2d_projection_with_sign_correction),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        yield
    torch.set_default_dtype(torch.float32)


def small_resnet():
    model = SmallResNet(BasicBlock, [2, 1, 1, 1], width=4, classes=3)
    model.load_state_dict(load_file(GOLDEN / "small_resnet_basic.weights.safetensors"))
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model.double().eval()


def peer_map(cam, x, classes):
    with raw_and_in_f64():
        return torch.from_numpy(cam(input_tensor=x, targets=[ClassifierOutputTarget(c) for c in classes]))


def case():
    model = small_resnet()
    x = load_file(GOLDEN / "small_resnet_basic.safetensors")["input"].double()
    out = {}
    for name, method in OF_LAYERS.items():
        for layer in LAYERS[1:2] if name in ("score_cam", "ablation_cam") else LAYERS[:2]:
            cam = method(model=model, target_layers=[getattr(model, layer)])
            out[f"{name}.{layer}"] = peer_map(cam, x, [1])
    conv = model.layer2[0].conv1
    cam = cams.AblationCAM(model=model, target_layers=[conv], batch_size=1)
    out["ablation_cam.layer2.0.conv1"] = peer_map(cam, x, [1])
    cam = cams.GradCAM(model=model, target_layers=[getattr(model, layer) for layer in LAYERS])
    out["grad_cam.all"] = peer_map(cam, torch.cat([x, x]), [0, 2])
    out["full_grad"] = peer_map(cams.FullGrad(model=model, target_layers=[]), x, [1])
    signed = LayerGradCam(model, model.layer2).attribute(x, target=1)
    out["signed.layer2"] = LayerAttribution.interpolate(signed, (32, 32), "bilinear")
    relu = LayerAttribution.interpolate(signed.relu(), (32, 32), "bilinear")
    agree("pytorch-grad-cam and Captum", out["grad_cam.layer2"], relu[:, 0])
    guided = GuidedBackprop(model).attribute(x.requires_grad_(), target=1)
    out["guided_backprop"] = guided
    out["deconvnet"] = Deconvolution(model).attribute(x, target=1)
    captum = GuidedGradCam(model, model.layer2)
    nearest = captum.attribute(x, target=1)
    agree("nearest", nearest, guided * LayerAttribution.interpolate(signed.relu(), (32, 32), "nearest"))
    out["guided_grad_cam.nearest"] = nearest
    out["guided_grad_cam.bilinear"] = captum.attribute(x, target=1, interpolate_mode="bilinear")
    wide = ("guided", "deconvnet")
    return {k: v.detach().float() if k.startswith(wide) else v.detach() for k, v in out.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    path = GOLDEN / "cams.safetensors"
    tensors = {k: v.contiguous() for k, v in case().items()}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all() or tensor.abs().max() == 0:
            sys.exit(f"{name}: nothing to compare")
        print(f"  {name}: {list(tensor.shape)}, norm {tensor.norm():.3g}")
    if check:
        compare(path, tensors)
    else:
        save_file(tensors, path)
        path.chmod(0o644)
        print(f"{path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
