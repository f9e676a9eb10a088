"""One GPU: this project on CUDA or wgpu beside PyTorch CUDA + Captum, each in its best batch.

PyTorch runs in f32 (eager and channels_last, TensorFloat-32 off), with TensorFloat-32, and under bf16
autocast; this project in f32, f16 and bf16. The map of every one is compared with PyTorch's own
in f32: for bf16 and TensorFloat-32 the distance is what that arithmetic costs. This project's own in
f32 must be as near as PyTorch's in another layout, up to a factor.
"""

import subprocess
import time

from measure import distance, spread
from server import Refused, Server
from warm import Cell, ask, gradients

MODES = ("eager", "channels_last", "tf32", "bf16")
PRECISIONS = {"cuda": ("f32", "f16", "bf16"), "wgpu": ("f32", "f16")}
BATCH = 50
# How far a map in f32 may be from PyTorch's: as a multiple of what another layout does there, and besides.
FACTOR = 5
SMALL = 1e-3
LIMIT = 300
FULL = [
    gradients(1, 10),
    gradients(8, 10),
    gradients(64, 3),
    Cell("SmoothGrad-50", "smoothgrad", repeats=3, sampled=True),
    Cell("IG-50", "integrated-gradients", repeats=3),
    Cell("Grad-CAM", "grad-cam", repeats=10, hooks=True),
    Cell("Guided Backprop", "guided-backprop", repeats=10, hooks=True),
    Cell("occlusion 16/8", "occlusion", repeats=2, options={"batch": 64}),
    Cell("RISE-1000", "rise", repeats=2, options={"samples": 1000, "batch": 100}, sampled=True),
]
FEW = FULL[:2] + FULL[3:4]
QUICK = [gradients(1, 5), gradients(8, 2), Cell("SmoothGrad-50", "smoothgrad", sampled=True), FULL[5]]
CELLS = {"resnet50": FULL, "resnet18": FEW, "squeezenet1_1": FEW, "vit": FEW}


def device():
    """Name and driver, as the driver says them."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        name, driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split(", ")
        return {"name": name.strip(), "driver": driver.strip()}
    except (OSError, subprocess.CalledProcessError, ValueError):
        return {"name": "unknown", "driver": "unknown"}


def first(command, log_file, log):
    """Seconds from the start of a process to its first and second gradient of ResNet50: compiling and
    tuning of kernels, where nothing of an earlier process is left or where its caches are."""
    found = []
    for _ in range(2):
        with Server(command, log_file) as side:
            start = time.perf_counter()
            seconds = side.ask(LIMIT, do="measure", network="resnet50", work="gradient", batch=1, repeats=2)["seconds"]
            found.append({"whole": time.perf_counter() - start, "gradients": seconds})
        log(f"  first gradient: {found[-1]['gradients'][0]:.2f} s, second {found[-1]['gradients'][1]:.3f} s, process {found[-1]['whole']:.1f} s")
    return found


def one(ours, peer, cell, network, precisions, rounds, out, log):
    """Seconds by variant, and how far its map is from PyTorch's in f32."""
    variant = lambda side, **setting: (side, {"batch": BATCH, **setting})
    sides = {f"saliency {p}": variant(ours, precision=p) for p in precisions}
    modes = [m for m in MODES if m != "bf16" or not cell.hooks]
    sides |= {f"PyTorch {m}": variant(peer, mode=m) for m in modes}
    reference = out / "reference.f32"
    other = out / "other.f32"
    ask(peer, cell, network, sides["PyTorch eager"][1], save=reference, limit=LIMIT, repeats=1)
    result = {"network": network, "title": cell.title, "variants": {}}
    for name, (side, setting) in list(sides.items()):
        try:
            # The first compiles and tunes kernels.
            warm = ask(side, cell, network, setting, save=other, limit=LIMIT, repeats=1)["seconds"][0]
        except Refused as reason:
            log(f"  {network}, {cell.title}, {name}: FAILED: {reason}")
            del sides[name]
            continue
        result["variants"][name] = {"distance": distance(other, reference), "first": warm, "seconds": []}
    for number in range(rounds):
        for name, (side, setting) in sides.items():
            taken = sorted(ask(side, cell, network, setting, seed=number, limit=LIMIT)["seconds"])
            result["variants"][name]["seconds"].append(taken[len(taken) // 2])
    for name, found in result["variants"].items():
        found["seconds"] = spread(found["seconds"])
        log(
            f"  {network}, {cell.title}, {name}: {1e3 * found['seconds']['median']:.2f} ms, first {found['first']:.2f} s, "
            f"map {found['distance']:.1e} from PyTorch's in f32"
        )
    distances = {name: found["distance"] for name, found in result["variants"].items()}
    if not cell.sampled and "saliency f32" in distances:
        allowed = FACTOR * distances.get("PyTorch channels_last", 0.0) + SMALL
        result["agree"] = distances["saliency f32"] <= allowed
        if not result["agree"]:
            log(f"  {network}, {cell.title}: the map in f32 is further from PyTorch's than {allowed:.1e}")
    return result


def measure(commands, name, networks, rounds, quick, out, log, write):
    """Results on the device `name` as they come, each handed to `write`, so that a run that is cut
    off leaves some."""
    found = {"device": device(), "results": []}
    found["first"] = first(commands["ours"], out / "ours.log", log)
    with Server(commands["ours"], out / "ours.log") as ours, Server(commands["peer"], out / "peer.log") as peer:
        found["peer"], found["ours"] = peer.ask(do="about"), ours.ask(do="about")
        for network in networks:
            for cell in QUICK if quick else CELLS[network]:
                try:
                    found["results"].append(one(ours, peer, cell, network, PRECISIONS[name], rounds, out, log))
                except Refused as reason:
                    log(f"  {network}, {cell.title}: FAILED: {reason}")
                write(found)
    return found
