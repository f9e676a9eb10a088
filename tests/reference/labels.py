"""Writes the class names that the library embeds.

    python tests/reference/labels.py

ImageNet-1k's names are torchvision's (`torchvision.models._meta`, BSD-3-Clause), one per line in
index order; CIFAR-10's are in the order of its label files.
"""

from pathlib import Path

from torchvision.models._meta import _IMAGENET_CATEGORIES

CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
OUT = Path(__file__).resolve().parents[2] / "crates/saliency-models/src/labels"

OUT.mkdir(exist_ok=True)
for name, labels in [("imagenet", _IMAGENET_CATEGORIES), ("cifar10", CIFAR10)]:
    (OUT / f"{name}.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
