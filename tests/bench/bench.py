#!/usr/bin/env python3
"""Time and memory beside PyTorch + Captum; frozen beside tracked weights.

    python tests/bench/bench.py --saliency target/release/saliency [--rounds 5]
        [--photo PHOTO] [--write-docs] [--only cold|gradient]

Cold start: the whole process from the command line to the written map, ours and PyTorch's in
turn, with the files in the system's cache. That both write the same map is checked. Gradient:
one input gradient of a ResNet50 in a process that is already warm.

Writes target/bench/cold_start.json, prints tables, and with --write-docs puts them into
docs/benchmarks.md.
"""

import argparse
import json
import os
import platform
import statistics
import sys
from importlib import metadata
from pathlib import Path

import report
from measure import interleaved, run, spread

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "target" / "bench"
REFERENCE = ROOT / "target" / "reference" / "resnet50"
PEER = Path(__file__).with_name("peer.py")
COMPARE = Path(__file__).with_name("compare.py")
SAMPLES = 50


def cold_cases(saliency, photo):
    """(title, our command, PyTorch's command, how far the maps may be apart)."""
    demo = ROOT / "models" / "demo.safetensors"
    resnet = lambda suffix: REFERENCE / f"resnet50.{suffix}"

    def ours(*options):
        return [saliency, "explain", photo, "--device", "cpu", "--save", "npy", *options]

    def peer(architecture, weights, *options):
        return [sys.executable, PEER, "explain", architecture, weights, photo, "OUT", *options]

    cases = [
        (f"ResNet50 gradient, .{suffix}", ours("--weights", resnet(suffix)), peer("resnet50", resnet(suffix)), 2e-2)
        for suffix in ("pth", "safetensors")
    ]
    if demo.stat().st_size:
        smooth = ("--method", "smoothgrad", "--samples", SAMPLES)
        cases += [
            ("demo model gradient", ours("--model", "demo"), peer("demo", demo), 1e-4),
            (
                f"demo model SmoothGrad-{SAMPLES}",
                ours("--model", "demo", *smooth),
                peer("demo", demo, "--samples", SAMPLES),
                None,
            ),
        ]
    else:
        print("models/demo.safetensors is empty: the demo model is left out")
    return cases


def cold(saliency, photo, rounds):
    results = []
    for number, (title, ours, peer, tolerance) in enumerate(cold_cases(saliency, photo)):
        folder = OUT / f"map-{number}"
        theirs = OUT / f"peer-{number}.npy"
        peer = [theirs if part == "OUT" else part for part in peer]
        commands = {"ours": [*ours, "--out", folder], "peer": peer}
        print(f"{title} ...", flush=True)
        samples = interleaved(commands, rounds)
        map_file = next(folder.glob("*.npy"))
        results.append(
            {
                "title": title,
                "maps": agreement(map_file, theirs, peer, tolerance),
                "ratio": paired(samples),
                "phases": phases(samples["peer"]),
                **{
                    name: {
                        "seconds": spread(s.seconds for s in runs),
                        "peak": spread(s.peak for s in runs),
                    }
                    for name, runs in samples.items()
                },
            }
        )
    return results


def paired(samples):
    """Our time over PyTorch's of the same round."""
    pairs = zip(samples["ours"], samples["peer"])
    return spread(ours.seconds / peer.seconds for ours, peer in pairs)


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
        own = distance(other, theirs)
        tolerance = 1.25 * own
    got = distance(ours, theirs)
    if not got < tolerance:
        sys.exit(f"{ours} and {theirs} differ by {got:.1e} (allowed: {tolerance:.1e})")
    return {"distance": got, "allowed": tolerance}


def distance(a, b):
    return float(run([sys.executable, COMPARE, a, b]).output)


def gradients(example, rounds):
    """One input gradient of a random ResNet50, in batches of 1 and of 8."""
    results = []
    for batch, repeats in ((1, 6), (8, 3)):
        print(f"ResNet50 gradient, batch {batch} ...", flush=True)
        commands = {
            "frozen": [example, "frozen", batch, repeats],
            "tracked": [example, "tracked", batch, repeats],
            "peer": [sys.executable, PEER, "gradient", batch, repeats],
        }
        result = {"batch": batch}
        for name, runs in interleaved(commands, rounds).items():
            outputs = [json.loads(r.output.splitlines()[-1]) for r in runs]
            result[name] = {
                # The first gradient of a process warms it up.
                "seconds": spread(statistics.median(o["seconds"][1:]) for o in outputs),
                "before": spread(o["before"] for o in outputs),
                "peak": spread(o["peak"] for o in outputs),
            }
        results.append(result)
    return results


def machine():
    name = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":")[1].strip() if lines else name
    return {
        "cpu": name,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.system(),
    }


def versions(saliency):
    packages = ("torch", "torchvision", "captum", "numpy", "pillow")
    return {
        "saliency": run([saliency, "--version"]).output.split()[-1],
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def make_photo(path):
    """A synthetic photograph of 1280x960 pixels as JPEG, in a process of its own."""
    script = (
        "import sys; from PIL import Image; "
        "Image.open(sys.argv[1]).resize((1280, 960), Image.BICUBIC).save(sys.argv[2], quality=92)"
    )
    run([sys.executable, "-c", script, REFERENCE / "photo.png", path])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saliency", type=Path, required=True, help="the built command")
    parser.add_argument("--example", type=Path, help="the built example `frozen`; else beside it")
    parser.add_argument("--photo", type=Path, help="a photograph; else a synthetic one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["cold", "gradient"])
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/benchmarks.md")
    args = parser.parse_args()
    saliency = args.saliency.resolve()
    example = args.example or saliency.parent / "examples" / "frozen"
    OUT.mkdir(parents=True, exist_ok=True)
    if not (REFERENCE / "resnet50.safetensors").exists():
        print("generating ResNet50 weights ...", flush=True)
        run([sys.executable, ROOT / "tests" / "reference" / "resnet50.py", REFERENCE])
    photo = args.photo
    if photo is None:
        photo = OUT / "photo.jpg"
        make_photo(photo)

    result = {"machine": machine(), "versions": versions(saliency), "rounds": args.rounds}
    if args.only != "gradient":
        result["cold"] = cold(saliency, photo.resolve(), args.rounds)
    if args.only != "cold":
        if example.exists():
            result["gradient"] = gradients(example, args.rounds)
        else:
            print(f"{example} is not built (cargo build --release --example frozen): left out")
    (OUT / "cold_start.json").write_text(json.dumps(result, indent=2) + "\n")
    text = report.markdown(result)
    print(text)
    if args.write_docs:
        report.insert(ROOT / "docs" / "benchmarks.md", text)


if __name__ == "__main__":
    main()
