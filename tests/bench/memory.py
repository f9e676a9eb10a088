#!/usr/bin/env python3
"""Peak memory of the command within a budget, on a ResNet50 with random weights.

    python tests/bench/memory.py --saliency target/release/saliency [--budget 2GiB] [--write-docs]

Prints a Markdown table, and with --write-docs puts it into docs/memory.md; fails where the
largest resident set of a whole process is above its budget.
"""

import argparse
import json
import sys
from pathlib import Path

from measure import run
from report import table

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "target" / "bench"
WEIGHTS = OUT / "random_resnet50.safetensors"
PHOTO = ROOT / "crates/saliency-models/tests-data/preprocess/decode/444.jpg"
DOCS = ROOT / "docs" / "memory.md"
UNITS = {"MiB": 2**20, "GiB": 2**30}
CASES = {
    "gradient": [],
    "integrated gradients, 200 steps": ["--method", "integrated-gradients", "--steps", "200"],
    "SmoothGrad, 200 samples": ["--method", "smoothgrad", "--samples", "200"],
}
HEADING = """# Memory

Written by `just memory --write-docs`: the largest resident set of whole processes of `saliency explain` with
a ResNet50 of random weights on one picture, on the CPU. All steps and samples are rows of
batches, which `--memory` splits; the results are the same whatever the batches.

"""


def size(text):
    number, unit = text[:-3], text[-3:]
    return int(float(number) * UNITS[unit])


def write_weights():
    """In a process of its own: a child's peak counts what its parent had, see measure.py."""
    import torch
    from safetensors.torch import save_file
    from torchvision.models import resnet50

    torch.manual_seed(0)
    WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
    save_file(resnet50(weights=None).state_dict(), WEIGHTS)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saliency", type=Path, required=True)
    parser.add_argument("--budget", nargs="+", default=["2GiB"])
    parser.add_argument("--write-docs", action="store_true")
    parser.add_argument("--weights-only", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.weights_only:
        return write_weights()
    if not WEIGHTS.exists():
        run([sys.executable, __file__, "--saliency", args.saliency, "--weights-only"])
    rows, over = [], []
    for budget in args.budget:
        for title, options in CASES.items():
            start = [args.saliency, "explain", PHOTO, "--device", "cpu", "--model", "resnet50"]
            rest = ["--weights", WEIGHTS, "--memory", budget, "--json", "--save", "none", *options]
            sample = run([*start, *rest])
            evaluations = json.loads(sample.output)[0]["trust"]["evaluations"]
            rows.append(
                [
                    budget,
                    title,
                    str(evaluations["gradient"]),
                    f"{sample.peak / 2**20:.0f} MiB",
                    f"{sample.seconds:.1f} s",
                ]
            )
            print(*rows[-1], sep=", ", flush=True)
            if sample.peak > size(budget):
                over.append(f"{title}: {rows[-1][3]} is above {budget}")
    text = table(["--memory", "method", "gradients", "peak memory", "time"], rows)
    print(text)
    if args.write_docs:
        DOCS.write_text(HEADING + text + "\n")
    if over:
        sys.exit("\n".join(over))


if __name__ == "__main__":
    main()
