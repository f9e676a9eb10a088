"""Peak memory of each work, in a process of its own."""

import warm
from server import Refused, Server


def measure(commands, tunings, cells, out, log):
    """For each work on ResNet50: the peak of the whole process, and how far that lies above the
    memory of the process with the loaded model."""
    network, results = "resnet50", []
    for cell in cells:
        settings = dict(zip(("ours", "peer"), warm.choose(cell, tunings[network])))
        result = {"title": cell.title, "work": cell.work, "settings": settings}
        try:
            for side, command in commands.items():
                result[side] = peak(command, cell, network, settings[side], out)
        except Refused as reason:
            log(f"  memory of {cell.title}: FAILED: {reason}")
            continue
        result["ratio"] = result["ours"]["whole"] / result["peer"]["whole"]
        result["ratio_increase"] = result["ours"]["increase"] / max(result["peer"]["increase"], 1)
        results.append(result)
        mebi = lambda side: " + ".join(f"{result[side][k] / 2**20:.0f}" for k in ("loaded", "increase"))
        log(f"  memory of {cell.title}: {mebi('ours')} MiB to {mebi('peer')} MiB, ratio {result['ratio']:.2f}")
    return results


def peak(command, cell, network, setting, out):
    with Server(command, out / "memory.log") as server:
        loading = server.ask(do="load", network=network, mode=setting.get("mode", ""))
        loaded = server.ask(do="forget_peak")
        # Memory does not grow with the samples of RISE.
        few = {"samples": 200} if cell.work == "rise" else {}
        small = warm.Cell(cell.title, cell.work, options=cell.options | few)
        warm.ask(server, small, network, setting)
        working = server.ask(do="memory")
    return {
        "whole": max(loading["peak"], working["peak"]),
        "loaded": loaded["now"],
        "increase": working["peak"] - loaded["now"],
    }
