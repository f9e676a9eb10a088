#!/usr/bin/env python3
"""Prints the relative L2 distance of two .npy arrays: ||a - b|| / ||b||."""

import sys

import numpy as np

a, b = (np.load(path).astype(np.float64) for path in sys.argv[1:3])
assert a.shape == b.shape, f"{a.shape} is not {b.shape}"
print(np.linalg.norm(a - b) / np.linalg.norm(b))
