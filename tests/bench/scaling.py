"""How time grows with samples and with the size of the picture."""

import warm
from measure import spread
from server import Refused
from tune import best

SAMPLES = (10, 25, 100)
SIDES = (112, 224, 336, 448)


def measure(ours, peer, tuned, rounds, log):
    smooth = next(c for c in warm.BASIC if c.work == "smoothgrad")
    one = warm.choose(smooth, tuned)
    points = [("samples", n, {"work": "smoothgrad", "samples": n}, one) for n in SAMPLES]
    single = {"batch": 1}, {"batch": 1, "mode": best([s for s in tuned["gradient"]["peer"] if "compile" not in s.mode], 1).mode}
    points += [("side", n, {"work": "gradient", "side": n, "rows": 1}, single) for n in SIDES]
    results = []
    for axis, value, request, settings in points:
        seconds = {"ours": [], "peer": []}
        try:
            for _ in range(rounds + 1):
                for name, side, setting in zip(seconds, (ours, peer), settings):
                    answer = side.ask(600, do="measure", network="resnet50", **(setting | request))
                    seconds[name].append(answer["seconds"][0])
        except Refused as reason:
            log(f"  {axis} {value}: FAILED: {reason}")
            continue
        result = {"axis": axis, "value": value, **{name: spread(taken[1:]) for name, taken in seconds.items()}}
        result["ratio"] = spread(a / b for a, b in list(zip(seconds["ours"], seconds["peer"]))[1:])
        results.append(result)
        log(f"  {axis} {value}: {result['ours']['median']:.3f} s to {result['peer']['median']:.3f} s")
    return results
