"""Test scores and effects of scikit-learn's logistic regression on real credit files, on the rows that
`saliency train --seed N` trains and tests on.

    python tests/reference/credit.py FOLDER   # with german.data and UCI_Credit_Card.csv

Only the figures are committed: tests/golden/credit.json.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

MASK = (1 << 64) - 1
ROOT = Path(__file__).resolve().parents[2]
SEEDS = range(1, 9)


def part_of_rows(rows, validation=0.15, test=0.15, seed=1):
    """0 for training, 1 for validation, 2 for the test: SplitMix64 of seed and row number."""

    def hashed(row):
        z = (seed + row * 0x9E3779B97F4A7C15) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    order = sorted((hashed(row), row) for row in range(1, rows + 1))
    # Halves are rounded away from zero, as Rust does.
    count = {part: int(share * rows + 0.5) for part, share in ((1, validation), (2, test))}
    parts = np.zeros(rows, dtype=int)
    for rank, (_, row) in enumerate(order):
        if rank < count[2]:
            parts[row - 1] = 2
        elif rank < count[2] + count[1]:
            parts[row - 1] = 1
    return parts


def is_number(text):
    try:
        float(text)
        return True
    except ValueError:
        return False


def encoded(columns, training):
    """Standardised numbers and one-hot categories; empty cells are the most frequent one."""
    features, source = [], []
    for index, cells in enumerate(columns):
        if sum(map(is_number, cells)) > len(cells) / 2:
            values = np.array([float(cell) for cell in cells])
            features.append((values - values[training].mean()) / values[training].std())
            source.append(index)
            continue
        known = sorted({cell for cell in cells if cell})
        frequent = max(known, key=lambda k: sum(c == k for c, t in zip(cells, training) if t))
        for category in known:
            features.append(np.array([float((cell or frequent) == category) for cell in cells]))
            source.append(index)
    return np.stack(features, axis=1), np.array(source)


def figures(rows, target, positive, drop=()):
    columns = [list(column) for column in zip(*rows)]
    truth = np.array([cell == positive for cell in columns[target]])
    features = [c for i, c in enumerate(columns) if i != target and i not in drop]
    found = {"rows": len(rows), "splits": []}
    for seed in SEEDS:
        parts = part_of_rows(len(rows), seed=seed)
        x, source = encoded(features, parts == 0)
        model = LogisticRegression(max_iter=5000).fit(x[parts == 0], truth[parts == 0])
        p = model.predict_proba(x[parts == 2])[:, 1]
        found["splits"].append({
            "seed": seed,
            "samples": int((parts == 2).sum()),
            "auc": roc_auc_score(truth[parts == 2], p),
            "log_loss": log_loss(truth[parts == 2], p),
            "accuracy": float(((p > 0.5) == truth[parts == 2]).mean()),
        })
        if seed == 1:
            # Coefficients times values: how far each column moves the logit.
            effects = x[parts == 0] * model.coef_[0]
            std = [effects[:, source == column].sum(axis=1).std() for column in range(source.max() + 1)]
            found["effect_std"] = [round(float(value), 6) for value in std]
    return found


def main(folder):
    german = [line.split() for line in (folder / "german.data").read_text().splitlines()]
    with open(folder / "UCI_Credit_Card.csv", newline="") as file:
        uci = list(csv.reader(file))[1:]
    result = {
        "german": figures(german, 20, "2"),
        "uci": figures(uci, 24, "yes", drop=(0,)),
    }
    path = ROOT / "tests/golden/credit.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
