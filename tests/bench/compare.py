#!/usr/bin/env python3
"""Prints the relative L2 distance of two arrays, .npy or raw f32: ||a - b|| / ||b||."""

import sys

import numpy as np


def read(path):
    array = np.load(path) if path.endswith(".npy") else np.fromfile(path, np.float32)
    return array.astype(np.float64)


a, b = (read(path) for path in sys.argv[1:3])
assert a.shape == b.shape, f"{a.shape} is not {b.shape}"
assert np.linalg.norm(b) > 0, "all zeros"
print(np.linalg.norm(a - b) / np.linalg.norm(b))
