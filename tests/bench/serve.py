#!/usr/bin/env python3
"""PyTorch + Captum as one process that stays warm.

    serve.py WEIGHTS_DIR [cpu | cuda]

reads one request a line from its input and answers with one line of JSON each, as the Rust
example `bench` does. {"do": "measure"} takes

    network, work, rows, side    what: see works.py
    batch, samples, seed, layer  its options
    input                        a file of raw f32 instead of the images of WEIGHTS_DIR
    mode                         eager, channels_last, compile, compile_channels_last or bf16,
                                 on CUDA also tf32, which is channels_last with TensorFloat-32
    repeats, save                how often, and a file for the result as raw f32

and answers with the seconds of each repetition; {"do": "memory"} with the process's memory now
and at its peak since the last {"do": "forget_peak"}, in bytes.
"""

import gc
import json
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import networks
from works import WORKS


class Peer:
    """A network in one mode, and its input."""

    def __init__(self, folder, name, mode, images, device):
        self.name, self.mode, self.images, self.device = name, mode, images, device
        last = mode.endswith("channels_last") or mode in ("bf16", "tf32")
        self.format = torch.channels_last if last else torch.contiguous_format
        self.plain = networks.load(name, folder).to(device, memory_format=self.format)
        self.model = self.plain
        if mode.startswith("compile"):
            self.model = torch.compile(self.plain, dynamic=False)
        if mode == "bf16":
            self.model = InBf16(self.plain, device)
        self.folder = folder
        self.delta = None
        self.cached = None

    @property
    def hooked(self):
        """The same with modules that hooks can be put on."""
        if self.cached is None:
            self.cached = networks.for_hooks(networks.load(self.name, self.folder)).to(self.device, memory_format=self.format)
        return self.cached

    def take(self, rows, side, file):
        if file:
            values = torch.from_numpy(np.fromfile(file, np.float32))
            x = values.reshape(rows, 3, side, side)
        else:
            images = self.images[f"images-{side}"]
            x = images[torch.arange(rows) % len(images)]
        self.x = x.to(self.device).contiguous(memory_format=self.format)
        with torch.no_grad():
            self.target = self.plain(self.x).argmax(1)


class InBf16(torch.nn.Module):
    def __init__(self, model, device):
        super().__init__()
        self.inner, self.device = model, device

    def forward(self, x):
        with torch.autocast(self.device, dtype=torch.bfloat16):
            return self.inner(x).float()

    def get_submodule(self, name):
        return self.inner.get_submodule(name)


def memory():
    """Resident memory of this process now and at most, in bytes; zeros where it is not told."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.startswith("Vm")}
    return {"now": sizes.get("VmRSS", 0), "peak": sizes.get("VmHWM", 0)}


def forget_peak():
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")
    return memory()


def measure(peers, folder, images, device, request):
    key = (request["network"], request.get("mode", "eager"))
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = key[1] == "tf32"
    if key not in peers:
        peers[key] = Peer(folder, *key, images, device)
    peer = peers[key]
    peer.take(request.get("rows", 1), request.get("side", 224), request.get("input"))
    request.setdefault("batch", 8)
    request.setdefault("seed", 0)
    peer.delta = None
    seconds, values = [], None
    for _ in range(request.get("repeats", 1)):
        peer.x.grad = None
        start = time.perf_counter()
        # On this machine's side, which waits for the device.
        values = WORKS[request["work"]](peer, request).cpu()
        seconds.append(time.perf_counter() - start)
    if request.get("save"):
        values.detach().float().contiguous().numpy().tofile(request["save"])
    with torch.no_grad():
        score = lambda x: peer.plain(x).gather(1, peer.target[:, None])[:, 0]
        gap = (score(peer.x) - score(torch.zeros_like(peer.x))).tolist() if peer.delta else None
    return {"seconds": seconds, "shape": list(values.shape), "delta": peer.delta, "gap": gap}


def about(device):
    found = {"threads": torch.get_num_threads(), "capability": torch.backends.cpu.get_cpu_capability()}
    if device == "cuda":
        found |= {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return found


def answer(peers, folder, images, device, request):
    match request["do"]:
        case "measure":
            return measure(peers, folder, images, device, request)
        case "load":
            key = (request["network"], request.get("mode", "eager"))
            peers[key] = Peer(folder, *key, images, device)
            return memory()
        case "memory":
            return memory()
        case "forget_peak":
            gc.collect()
            return forget_peak()
        case "about":
            return about(device)
        case other:
            raise ValueError(f"unknown request {other}")


def main():
    warnings.filterwarnings("ignore")
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    folder, device = Path(sys.argv[1]), (sys.argv[2:] or ["cpu"])[0]
    images = load_file(folder / "inputs.safetensors")
    peers = {}
    for line in sys.stdin:
        try:
            found = answer(peers, folder, images, device, json.loads(line))
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
