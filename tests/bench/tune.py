"""Each side's best configuration for a network: which batch, and for PyTorch which mode."""

import statistics
from dataclasses import dataclass

from server import Refused

BATCHES = {"gradient": (1, 2, 4, 5, 8, 10, 16, 25), "forward": (1, 4, 8, 16, 32, 64)}
FEW = {"gradient": (1, 5, 8, 25), "forward": (8, 32)}
COMPILE_LIMIT = 240


@dataclass
class Setting:
    """Seconds a row in batches of a size, in a mode."""

    mode: str
    batch: int
    seconds: float


def settings(side, network, kind, modes, batches, log, limit=600):
    """Measured settings. A mode that fails is dropped aloud."""
    found = []
    for mode in modes:
        try:
            for batch in batches:
                request = {"network": network, "work": kind, "rows": batch, "batch": batch, "mode": mode}
                # The first makes plans, compiles, and fills caches.
                seconds = side.ask(limit, do="measure", repeats=4 if batch < 8 else 3, **request)["seconds"][1:]
                found.append(Setting(mode, batch, statistics.median(seconds) / batch))
        except Refused as reason:
            log(f"  {network}, {kind}, {mode}: dropped: {reason}")
            found = [s for s in found if s.mode != mode]
    return found


def best(found, rows=None):
    """The fastest setting; of those for a given number of rows."""
    usable = [s for s in found if rows in (None, s.batch)]
    return min(usable, key=lambda s: s.seconds)


def tune(ours, peer, network, kinds, quick, log):
    """{kind: {"ours": [Setting], "peer": [Setting]}}. torch.compile is tried at the batches
    that eager mode is best at, within a time limit."""
    batches = FEW if quick or network != "resnet50" else BATCHES
    tuned = {}
    for kind in kinds:
        eager = settings(peer, network, kind, ("eager", "channels_last"), batches[kind], log)
        if not quick:
            at = sorted({1, 8, best(eager).batch}) if kind == "gradient" else [best(eager).batch]
            modes = ("compile", "compile_channels_last") if network == "resnet50" else ("compile",)
            eager += settings(peer, network, kind, modes, at, log, COMPILE_LIMIT)
        tuned[kind] = {
            "ours": settings(ours, network, kind, ("",), batches[kind], log),
            "peer": eager,
        }
        for side, found in tuned[kind].items():
            for s in sorted(found, key=lambda s: (s.mode, s.batch)):
                log(f"  {network}, {kind}, {side} {s.mode} batch {s.batch}: {1e3 * s.seconds:.1f} ms a row")
    return tuned
