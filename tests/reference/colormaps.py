#!/usr/bin/env python3
"""Writes crates/saliency-viz/tests-data/colormaps.json: the 256 colours that
matplotlib draws for each colormap, as one hexadecimal string of r, g, b bytes.

    python tests/reference/colormaps.py            # write
    python tests/reference/colormaps.py --check    # compare what is there with what would be written
"""

import argparse
import json
import sys
from pathlib import Path

import matplotlib
import numpy as np

TABLE = Path(__file__).resolve().parents[2] / "crates/saliency-viz/tests-data/colormaps.json"
NAMES = ["hot", "jet", "Reds", "Blues", "gray", "viridis", "inferno", "RdBu"]


def colours(name):
    rgba = matplotlib.colormaps[name](np.arange(256), bytes=True)
    return rgba[:, :3].tobytes().hex()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    arguments = parser.parse_args()

    maps = {name: colours(name) for name in NAMES}
    if arguments.check:
        if json.loads(TABLE.read_text())["colormaps"] != maps:
            sys.exit(f"{TABLE.name} differs from matplotlib {matplotlib.__version__}")
        return
    table = {"matplotlib": matplotlib.__version__, "colormaps": maps}
    TABLE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
