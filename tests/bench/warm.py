"""Both sides in processes that stay warm, in turn."""

from dataclasses import dataclass, field

from measure import distance, spread
from server import Refused
from tune import best, tune

# Distances of single-precision gradients of deep ReLU networks: a ReLU whose argument rounds to
# the other side of zero changes whole paths.
EXACT = 3e-2


@dataclass
class Cell:
    """One work on one network."""

    title: str
    work: str
    kind: str = "gradient"
    options: dict = field(default_factory=dict)
    repeats: int = 1
    slow: bool = False
    sampled: bool = False
    hooks: bool = False


def gradients(rows, repeats):
    return Cell(f"gradient, batch {rows}", "gradient", options={"rows": rows, "batch": rows}, repeats=repeats)


BASIC = [
    gradients(1, 5),
    gradients(8, 3),
    Cell("SmoothGrad-50", "smoothgrad", sampled=True),
    Cell("IG-50", "integrated-gradients"),
    Cell("Grad-CAM", "grad-cam", repeats=5, hooks=True),
]
MORE = [
    Cell("prediction and gradient", "explain", repeats=5, options={"rows": 1, "batch": 1}),
    Cell("Guided Backprop", "guided-backprop", repeats=5, hooks=True),
    Cell("DeepLIFT", "deeplift", repeats=3, hooks=True),
    Cell("occlusion 16/8", "occlusion", "forward", slow=True),
    Cell("RISE-1000", "rise", "forward", {"samples": 1000}, slow=True, sampled=True),
]
QUICK_MORE = MORE[:3]
LAYERS = {"resnet18": "layer4", "resnet50": "layer4", "squeezenet1_1": "features.12", "vit": "patches"}
NETWORKS = ("resnet50", "resnet18", "squeezenet1_1", "vit")


def choose(cell, tuned):
    """The requests' settings: ours, and PyTorch's."""
    found = tuned[cell.kind]
    rows = cell.options.get("rows")
    peer = found["peer"]
    if cell.hooks:
        peer, rows = [s for s in peer if not s.mode.startswith("compile")], 1
    elif rows is None:
        # A compiled model is compiled again for a smaller last batch.
        whole = lambda s: 50 % s.batch == 0 or not s.mode.startswith("compile")
        peer = [s for s in peer if whole(s)]
    ours = best(found["ours"], rows)
    peer = best(peer, rows)
    return {"batch": ours.batch}, {"batch": peer.batch, "mode": peer.mode}


def ask(side, cell, network, setting, seed=0, save=None, limit=900, **more):
    request = {"do": "measure", "network": network, "work": cell.work, "seed": seed, "repeats": cell.repeats}
    request |= {"samples": 50, "layer": LAYERS[network]} | setting | cell.options | more
    if save:
        request["save"] = str(save)
    return side.ask(limit, **request)


def agree(ours, peer, cell, network, settings, out):
    """Whether both compute the same, with the distance; also what warms both up."""
    files = [out / f"{network}-{cell.work}.{side}.f32" for side in ("ours", "peer", "other")]
    adding = {"adding": True} if cell.work == "deeplift" else {}
    ask(ours, cell, network, settings[0], save=files[0], repeats=1)
    ask(peer, cell, network, settings[1], save=files[1], repeats=1, **adding)
    allowed = EXACT
    if cell.sampled:
        # Other generators: the yardstick is how far two of PyTorch's own are apart.
        ask(peer, cell, network, settings[1], seed=1, save=files[2], repeats=1)
        allowed = 1.25 * distance(files[2], files[1])
    got = distance(files[0], files[1])
    for file in files:
        file.unlink(missing_ok=True)
    return {"distance": got, "allowed": allowed, "agree": got <= allowed}


def one(ours, peer, cell, network, tuned, rounds, out, log):
    settings = choose(cell, tuned)
    result = {"network": network, "title": cell.title, "work": cell.work, "settings": settings}
    result |= agree(ours, peer, cell, network, settings, out)
    if not result["agree"]:
        log(f"  {network}, {cell.title}: DIFFERS by {result['distance']:.1e}, allowed {result['allowed']:.1e}: not timed")
        return result
    seconds = {"ours": [], "peer": []}
    for number in range(rounds):
        for name, side, setting in (("ours", ours, settings[0]), ("peer", peer, settings[1])):
            taken = sorted(ask(side, cell, network, setting, seed=number)["seconds"])
            seconds[name].append(taken[len(taken) // 2])
    result["ours"], result["peer"] = spread(seconds["ours"]), spread(seconds["peer"])
    result["ratio"] = spread(a / b for a, b in zip(seconds["ours"], seconds["peer"]))
    log(
        f"  {network}, {cell.title}: {result['ours']['median']:.3f} s to {result['peer']['median']:.3f} s, "
        f"ratio {result['ratio']['median']:.2f} (maps {result['distance']:.1e} apart)"
    )
    return result


def measure(ours, peer, networks, works, rounds, quick, out, log, known):
    """Results of all cells, or of some works, and the tuning of each network; `known` are those of
    the last run, which serve for some works."""
    results, tunings = [], {}
    for network in networks:
        full = network == "resnet50"
        cells = BASIC + (QUICK_MORE if quick else MORE if full else [])
        if quick:
            cells = [c for c in cells if not c.slow] if full else BASIC
        cells = [c for c in cells if not works or c.work in works]
        kinds = sorted({c.kind for c in cells})
        if works and set(kinds) <= set(known.get(network, {})):
            tuned = tunings[network] = known[network]
        else:
            log(f"{network}: best configurations")
            tuned = tunings[network] = tune(ours, peer, network, kinds, quick, log)
        for cell in cells:
            count = min(rounds, 3) if cell.slow else rounds
            try:
                results.append(one(ours, peer, cell, network, tuned, count, out, log))
            except Refused as reason:
                log(f"  {network}, {cell.title}: FAILED: {reason}")
                results.append({"network": network, "title": cell.title, "work": cell.work, "failed": str(reason)})
    return results, tunings


def halved(peer, rounds, tuned, log):
    """bf16 autocast, whose arithmetic is another: beside the single-precision peer."""
    results = []
    for rows in (1, 8):
        request = {"do": "measure", "network": "resnet50", "work": "gradient", "rows": rows, "repeats": 2}
        seconds = {"f32": [], "bf16": []}
        modes = {"f32": best(tuned["gradient"]["peer"], rows).mode, "bf16": "bf16"}
        try:
            for _ in range(rounds + 1):
                for name, mode in modes.items():
                    seconds[name].append(min(peer.ask(300, **request, mode=mode)["seconds"]))
        except Refused as reason:
            log(f"  bf16: dropped: {reason}")
            return results
        results.append({"rows": rows, **{name: spread(taken[1:]) for name, taken in seconds.items()}})
        log(f"  bf16 autocast, batch {rows}: {results[-1]['bf16']['median']:.3f} s to {results[-1]['f32']['median']:.3f} s in f32")
    return results
