"""Scores of scikit-learn's linear models on windows of real price series: the windows, the split and
the scaling of `saliency train --sequence`, made here again from the files.

    python tests/reference/prices.py FOLDER   # with vix_daily.csv, sp500_monthly_shiller.csv, ...

Only the figures are committed: tests/golden/prices.json.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import log_loss, r2_score, roc_auc_score

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("training", "validation", "test")


def rounded(value):
    """Halves away from zero, as Rust does."""
    return int(value + 0.5)


def windows(path, features, target, steps, quantity, absent=()):
    """Inputs [N, steps * features], targets and parts (0, 1, 2) of all windows whose target is the
    next row's. Rows with an absent value are left out, and no window goes across them."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    names = [*features, *({target} - set(features))]
    cells = np.array([[float(row[name]) for name in names] for row in rows])
    is_known = ~np.isin(cells[:, : len(features)], absent).any(axis=1)
    count = len(rows)
    last = count - rounded(0.15 * count)
    first_of_part = np.array([0, last - rounded(0.15 * count), last])
    part = np.searchsorted(first_of_part, np.arange(count), side="right") - 1
    training = cells[(part == 0) & is_known]
    scaled = (cells - training.mean(axis=0)) / np.maximum(training.std(axis=0), 1e-300)
    price = cells[:, names.index(target)]
    inputs, targets, parts = [], [], []
    for start in range(count - steps):
        now, later = start + steps - 1, start + steps
        if not is_known[start : later + 1].all() or part[start] != part[later]:
            continue
        change = price[later] - price[now]
        inputs.append(scaled[start : now + 1, : len(features)].ravel())
        targets.append(
            {"change": change, "return": change / price[now], "direction": change > 0}[quantity]
        )
        parts.append(part[start])
    return np.array(inputs), np.array(targets), np.array(parts)


def classification(x, y, parts):
    model = LogisticRegression(max_iter=20000).fit(x[parts == 0], y[parts == 0])
    found = {}
    for part in (1, 2):
        truth, p = y[parts == part], model.predict_proba(x[parts == part])[:, 1]
        found[PARTS[part]] = {
            "samples": len(truth),
            "accuracy": float(((p > 0.5) == truth).mean()),
            "auc": roc_auc_score(truth, p),
            "log_loss": log_loss(truth, p),
        }
    return found


def regression(x, y, parts):
    model = LinearRegression().fit(x[parts == 0], y[parts == 0])
    found = {}
    for part in (1, 2):
        truth, guess = y[parts == part], model.predict(x[parts == part])
        rmse = float(np.sqrt(((truth - guess) ** 2).mean()))
        found[PARTS[part]] = {"samples": len(truth), "rmse": rmse, "r2": r2_score(truth, guess)}
    return found


def main(folder):
    vix = (folder / "vix_daily.csv", ["OPEN", "HIGH", "LOW", "CLOSE"], "CLOSE", 20)
    shiller = ["SP500", "Dividend", "Earnings", "Consumer Price Index", "Long Interest Rate"]
    shiller += ["Real Price", "Real Dividend", "Real Earnings", "PE10"]
    sp500 = (folder / "sp500_monthly_shiller.csv", shiller, "SP500", 12)
    quotes = [f"AAPL.{name}" for name in ("Open", "High", "Low", "Close", "Volume", "Adjusted")]
    aapl = (folder / "aapl_daily_plotly.csv", quotes, "AAPL.Close", 10)
    result = {
        "vix direction": classification(*windows(*vix, "direction")),
        "vix change": regression(*windows(*vix, "change")),
        "sp500 direction": classification(*windows(*sp500, "direction", absent=[0.0])),
        "sp500 return": regression(*windows(*sp500, "return", absent=[0.0])),
        "aapl direction": classification(*windows(*aapl, "direction")),
        "aapl return": regression(*windows(*aapl, "return")),
    }
    path = ROOT / "tests/golden/prices.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
