"""What is measured, as one does it with PyTorch and Captum. Each work takes the loaded `Peer`
and a request, and gives the attribution."""

from unittest import mock

import torch
import torch.nn.functional as F
from captum.attr import (
    DeepLift,
    GuidedBackprop,
    IntegratedGradients,
    LayerAttribution,
    LayerGradCam,
    NoiseTunnel,
    Occlusion,
    Saliency,
)

GRID = 7


def forward(peer, request):
    with torch.no_grad():
        return torch.cat([peer.model(x) for x in peer.x.split(request["batch"])])


def gradient(peer, request):
    return Saliency(peer.model).attribute(peer.x, target=peer.target, abs=False)


def explain(peer, request):
    """With the prediction."""
    with torch.no_grad():
        target = peer.model(peer.x).argmax(1)
    return Saliency(peer.model).attribute(peer.x, target=target, abs=False)


def smoothgrad(peer, request):
    torch.manual_seed(request["seed"])
    sigma = 0.1 * (peer.x.max() - peer.x.min()).item()
    return NoiseTunnel(Saliency(peer.model)).attribute(
        peer.x,
        nt_type="smoothgrad",
        nt_samples=request["samples"],
        nt_samples_batch_size=request["batch"],
        stdevs=sigma,
        target=peer.target,
    )


def integrated_gradients(peer, request):
    values, delta = IntegratedGradients(peer.model).attribute(
        peer.x,
        target=peer.target,
        n_steps=request["samples"],
        method=request.get("rule", "gausslegendre"),
        internal_batch_size=request["batch"],
        return_convergence_delta=True,
    )
    peer.delta = delta.tolist()
    return values


def grad_cam(peer, request):
    layer = peer.model.get_submodule(request["layer"])
    map = LayerGradCam(peer.model, layer).attribute(peer.x, target=peer.target, relu_attributions=True)
    return LayerAttribution.interpolate(map, peer.x.shape[2:], "bilinear")


def guided_backprop(peer, request):
    return GuidedBackprop(peer.hooked).attribute(peer.x, target=peer.target)


def deeplift(peer, request):
    """`adding`: max pools add up the shares of overlapping windows, of which Captum keeps one."""
    lift = DeepLift(peer.hooked)
    if not request.get("adding"):
        return lift.attribute(peer.x, target=peer.target)

    def unpool(values, indices, kernel, stride, padding, shape):
        flat = values.new_zeros(*shape[:2], shape[2] * shape[3])
        return flat.scatter_add(2, indices.flatten(2), values.flatten(2)).reshape(shape)

    with mock.patch.object(F, "max_unpool2d", unpool):
        return lift.attribute(peer.x, target=peer.target)


def occlusion(peer, request):
    return Occlusion(peer.model).attribute(
        peer.x,
        sliding_window_shapes=(3, 16, 16),
        strides=(3, 8, 8),
        target=peer.target,
        perturbations_per_eval=request["batch"],
    )


def rise(peer, request):
    """Captum has none: as the paper's authors do it, with masks made batch by batch."""
    torch.manual_seed(request["seed"])
    height, width = peer.x.shape[2:]
    cell = [-(-size // GRID) for size in (height, width)]
    device = peer.x.device
    sums, left = torch.zeros(height, width, device=device), request["samples"]
    with torch.no_grad():
        while left > 0:
            count = min(left, request["batch"])
            left -= count
            cells = (torch.rand(count, 1, GRID, GRID, device=device) < 0.5).float()
            large = F.interpolate(cells, [(GRID + 1) * c for c in cell], mode="bilinear")
            shifts = (torch.rand(count, 2) * torch.tensor(cell)).long().tolist()
            masks = torch.cat([m[None, :, y : y + height, x : x + width] for m, (y, x) in zip(large, shifts)])
            inputs = (peer.x * masks).contiguous(memory_format=peer.format)
            scores = peer.model(inputs)[:, peer.target[0]]
            sums += (masks[:, 0] * scores[:, None, None]).sum(0)
    return (sums / (0.5 * request["samples"]))[None, None]


WORKS = {
    "forward": forward,
    "gradient": gradient,
    "explain": explain,
    "smoothgrad": smoothgrad,
    "integrated-gradients": integrated_gradients,
    "grad-cam": grad_cam,
    "guided-backprop": guided_backprop,
    "deeplift": deeplift,
    "occlusion": occlusion,
    "rise": rise,
}
