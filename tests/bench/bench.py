#!/usr/bin/env python3
"""Time and memory beside PyTorch + Captum.

    python tests/bench/bench.py [--release target/release] [--quick] [--rounds 5]
        [--only warm,cold,memory,scaling,counts,frozen,profile] [--networks resnet50,...]
        [--photo PHOTO] [--write-docs]
    python tests/bench/bench.py --device cuda      # a GPU instead, ours on CUDA or on wgpu

Both sides take turns in the same run, A B A B, each in its best configuration. That both compute
the same is checked before anything counts: what differs is not timed, and the command fails.
Writes target/bench/PART.json for each part, prints tables, and with --write-docs puts them
into docs/benchmarks.md: of parts that were not run, the tables of the last run.
"""

import argparse
import json
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path

import cold
import counts
import frozen
import gpu
import peaks
import profile_layers
import report
import scaling
import warm
from measure import run
from server import Server

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
OUT = ROOT / "target" / "bench"
WEIGHTS = OUT / "weights"
PARTS = ("warm", "scaling", "counts", "memory", "cold", "frozen", "profile")
GPUS = ("cuda", "wgpu")
START = time.perf_counter()


def log(text):
    print(f"[{time.perf_counter() - START:5.0f} s] {text}", flush=True)


def machine():
    name = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":")[1].strip() if lines else name
    return {
        "cpu": name,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.system(),
        "load": os.getloadavg()[0],
    }


def versions(saliency):
    packages = ("torch", "torchvision", "captum", "numpy", "pillow")
    return {
        "saliency": run([saliency, "--version"]).output.split()[-1],
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def write(name, value):
    """The file is written whole or not at all."""
    part = OUT / f"{name}.json.part"
    part.write_text(json.dumps(value, indent=2) + "\n")
    part.rename(OUT / f"{name}.json")


def read(name):
    path = OUT / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--release", type=Path, default=ROOT / "target" / "release", help="where the built programs are")
    parser.add_argument("--quick", action="store_true", help="a short run: fewer configurations, works and rounds")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--networks", default=",".join(warm.NETWORKS))
    parser.add_argument("--works", help="measure some works of warm and counts again, such as deeplift,integrated-gradients")
    parser.add_argument("--device", choices=("cpu", *GPUS), default="cpu", help="a GPU instead of the CPU: needs an NVIDIA GPU for PyTorch")
    parser.add_argument("--photo", type=Path, help="a photograph; else a synthetic one")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/benchmarks.md")
    args = parser.parse_args()
    wanted, on_gpu = args.only.split(","), []
    unknown = [part for part in wanted if part not in PARTS]
    if unknown:
        parser.error(f"unknown part {unknown[0]}; there are {', '.join(PARTS)}")
    networks, works = args.networks.split(","), args.works.split(",") if args.works else []
    if set(networks) - {*warm.NETWORKS, "demo"}:
        parser.error(f"networks are {', '.join(warm.NETWORKS)}, and demo for counts")
    timed = [network for network in networks if network in warm.NETWORKS]
    rounds = args.rounds or (3 if args.quick else 5)
    saliency = (args.release / "saliency").resolve()
    example = lambda name: (args.release / "examples" / name).resolve()
    OUT.mkdir(parents=True, exist_ok=True)
    if not (WEIGHTS / "inputs.safetensors").exists():
        log("generating weights")
        run([sys.executable, HERE / "networks.py", WEIGHTS])
    photo = (args.photo or WEIGHTS / "photo.jpg").resolve()

    about = {"machine": machine(), "versions": versions(saliency), "rounds": rounds}
    if about["machine"]["load"] > 0.7:
        log(f"the machine is busy (load {about['machine']['load']:.1f}): ratios are of use, seconds less so")
    commands = {"ours": [example("bench"), WEIGHTS], "peer": [sys.executable, HERE / "serve.py", WEIGHTS]}
    if args.device != "cpu":
        wanted = []
        commands = {"ours": [*commands["ours"], args.device], "peer": [*commands["peer"], "cuda"]}
        keep = lambda found: write(f"gpu-{args.device}", {**about, **found})
        on_gpu = gpu.measure(commands, args.device, timed, rounds, args.quick, OUT, log, keep)["results"]
    compiled = {"TORCHINDUCTOR_CACHE_DIR": str(OUT / "inductor")}
    if {"warm", "scaling", "counts"} & set(wanted):
        with Server(commands["ours"], OUT / "ours.log") as ours, Server(commands["peer"], OUT / "peer.log", compiled) as peer:
            about["peer"] = peer.ask(do="about")
            if "warm" in wanted:
                last = read("warm") or {}
                results, tunings = warm.measure(ours, peer, timed, works, rounds, args.quick, OUT, log, report.tunings(last))
                tuned = {n: {k: {s: [vars(x) for x in f] for s, f in v.items()} for k, v in t.items()} for n, t in tunings.items()}
                if works:
                    measured = {(r["network"], r["title"]): r for r in results}
                    again = lambda r: measured.pop((r["network"], r["title"]), r)
                    results = [*map(again, last.get("results", [])), *measured.values()]
                    write("warm", {**about, **last, "results": results, "tunings": {**last.get("tunings", {}), **tuned}})
                else:
                    halves = warm.halved(peer, rounds, tunings["resnet50"], log) if "resnet50" in networks else []
                    write("warm", {**about, "results": results, "tunings": tuned, "bf16": halves})
            tunings = report.tunings(read("warm"))
            if "scaling" in wanted and "resnet50" in tunings:
                log("scaling")
                write("scaling", {**about, "results": scaling.measure(ours, peer, tunings["resnet50"], min(rounds, 3), log)})
            if "counts" in wanted:
                log("evaluations for the same answer")
                last = read("counts") or {}
                write("counts", {**about, **counts.measure(ours, peer, args.quick, networks, works, last, OUT, log)})
    tunings = report.tunings(read("warm"))
    if "memory" in wanted and "resnet50" in tunings:
        log("peak memory")
        cells = warm.BASIC if args.quick else warm.BASIC + warm.MORE
        write("memory", {**about, "results": peaks.measure(commands, tunings, cells, OUT, log)})
    if "cold" in wanted:
        write("cold", {**about, "results": cold.measure(saliency, WEIGHTS, photo, OUT, 2 if args.quick else rounds, log)})
    if "frozen" in wanted:
        write("frozen", {**about, "results": frozen.measure(example("frozen"), 1 if args.quick else 3, log)})
    if "profile" in wanted:
        log("profile of ResNet50")
        write("profile", {**about, **profile_layers.measure(saliency)})

    text = report.markdown({part: read(part) for part in (*PARTS, *(f"gpu-{device}" for device in GPUS))})
    print(text)
    if args.write_docs:
        report.insert(ROOT / "docs" / "benchmarks.md", text)
    found = (read("warm") or {}).get("results", []) if "warm" in wanted else []
    bad = [r for r in found if not r.get("agree")] + [r for r in on_gpu if not r.get("agree", True)]
    if bad:
        sys.exit("not compared: " + "; ".join(f"{r['network']} {r['title']}" for r in bad))


if __name__ == "__main__":
    main()
