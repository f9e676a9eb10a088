"""Small weight files for the tests of saliency-models' loader.

Writes into crates/saliency-models/tests-data. Needs torch (2.x) and safetensors.

    python tests/reference/weights.py
"""

import os
import pathlib
import pickle

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

OUT = pathlib.Path(__file__).parents[2] / "crates/saliency-models/tests-data"


class Block(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.stride = 1 if cin == cout else 2
        self.extra = cout - cin
        self.conv1 = nn.Conv2d(cin, cout, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.extra:
            side = self.extra // 2
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, side, side))
        return F.relu(x + y)


class Net(nn.Module):
    """A CIFAR ResNet of one block per stage, 2 channels wide, 3 classes."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 2, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(2)
        self.layer1 = nn.Sequential(Block(2, 2))
        self.layer2 = nn.Sequential(Block(2, 4))
        self.layer3 = nn.Sequential(Block(4, 8))
        self.linear = nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def network():
    torch.manual_seed(0)
    net = Net()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


def image():
    """x[c, h, w] = ((7 c + 3 h + 5 w) mod 11) / 11 on 3 x 9 x 10."""
    c, h, w = torch.meshgrid(
        torch.arange(3), torch.arange(9), torch.arange(10), indexing="ij"
    )
    return (((7 * c + 3 * h + 5 * w) % 11).double() / 11)[None]


class Hostile:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def main():
    OUT.mkdir(exist_ok=True)
    net = network()
    weights = net.state_dict()
    logits = net.double()(image())[0].tolist()
    print("logits:", logits)
    net.float()

    torch.save(weights, OUT / "zip.pth")
    wrapped = {f"module.{k}": v for k, v in weights.items()}
    extra = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}}
    torch.save(
        {"state_dict": wrapped, **extra},
        OUT / "legacy.th",
        _use_new_zipfile_serialization=False,
    )
    for name, dtype in [("f16", torch.float16), ("bf16", torch.bfloat16), ("f64", torch.float64)]:
        cast = {
            k: v.to(dtype).contiguous() if v.is_floating_point() else v
            for k, v in weights.items()
        }
        save_file(cast, OUT / f"{name}.safetensors", {"format": "pt"})

    command = Hostile(os.system, "echo run > hostile-pickle-was-run")
    small = {"linear.bias": torch.zeros(3)}
    torch.save({"state_dict": small, "x": command}, OUT / "hostile.pth")
    torch.save(
        {"state_dict": small, "x": Hostile(eval, "1")},
        OUT / "hostile_eval.pth",
        pickle_protocol=4,
    )
    torch.save(
        {"state_dict": small, "x": command},
        OUT / "hostile.th",
        _use_new_zipfile_serialization=False,
    )
    (OUT / "hostile.pkl").write_bytes(pickle.dumps(command))
    print({p.name: p.stat().st_size for p in sorted(OUT.glob('*.*'))})


if __name__ == "__main__":
    main()
