"""Cold start: the whole process from the command line to the written map, ours and PyTorch's
in turn, with the files in the system's cache."""

import json
import statistics
import sys
from pathlib import Path

from measure import distance, interleaved, run, spread

ROOT = Path(__file__).resolve().parents[2]
PEER = Path(__file__).with_name("peer.py")
SAMPLES = 50


def cases(saliency, weights, photo):
    """(title, our command, PyTorch's command, how far the maps may be apart)."""
    demo = ROOT / "models" / "demo.safetensors"
    resnet = lambda suffix: weights / f"resnet50.{suffix}"

    def ours(*options):
        return [saliency, "explain", photo, "--device", "cpu", "--save", "npy", *options]

    def peer(architecture, weights, *options):
        return [sys.executable, PEER, "explain", architecture, weights, photo, "OUT", *options]

    found = [
        (f"ResNet50 gradient, .{suffix}", ours("--weights", resnet(suffix)), peer("resnet50", resnet(suffix)), 2e-2)
        for suffix in ("pth", "safetensors")
    ]
    smooth = ("--method", "smoothgrad", "--samples", SAMPLES)
    return found + [
        ("demo model gradient", ours("--model", "demo"), peer("demo", demo), 1e-4),
        (
            f"demo model SmoothGrad-{SAMPLES}",
            ours("--model", "demo", *smooth),
            peer("demo", demo, "--samples", SAMPLES),
            None,
        ),
    ]


def measure(saliency, weights, photo, out, rounds, log):
    results = []
    for number, (title, ours, peer, tolerance) in enumerate(cases(saliency, weights, photo)):
        folder = out / f"map-{number}"
        theirs = out / f"peer-{number}.npy"
        peer = [theirs if part == "OUT" else part for part in peer]
        commands = {"ours": [*ours, "--out", folder], "peer": peer}
        log(f"cold start: {title}")
        samples = interleaved(commands, rounds)
        sides = {
            name: {"seconds": spread(s.seconds for s in runs), "peak": spread(s.peak for s in runs)}
            for name, runs in samples.items()
        }
        pairs = zip(samples["ours"], samples["peer"])
        results.append(
            {
                "title": title,
                "maps": agreement(next(folder.glob("*.npy")), theirs, peer, tolerance),
                "ratio": spread(ours.seconds / peer.seconds for ours, peer in pairs),
                "phases": phases(samples["peer"]),
                **sides,
            }
        )
    return results


def phases(runs):
    """Median seconds of each part of PyTorch's process."""
    parts = [json.loads(r.output.splitlines()[-1])["phases"] for r in runs]
    return {name: statistics.median(p[name] for p in parts) for name in parts[0]}


def agreement(ours, theirs, peer, tolerance):
    """Relative L2 distance of the two maps, checked. Sampled maps differ by their noise, so
    their yardstick is the distance between two of PyTorch's own."""
    if tolerance is None:
        other = theirs.with_suffix(".other.npy")
        run([*(other if part == theirs else part for part in peer), "--seed", 1])
        tolerance = 1.25 * distance(other, theirs)
    got = distance(ours, theirs)
    if not got < tolerance:
        sys.exit(f"{ours} and {theirs} differ by {got:.1e} (allowed: {tolerance:.1e})")
    return {"distance": got, "allowed": tolerance}
