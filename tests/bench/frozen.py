"""Input gradients on plain weights beside those on weights that are tracked as in training."""

import json
import statistics

from measure import interleaved, spread


def measure(example, rounds, log):
    results = []
    for batch, repeats in ((1, 6), (8, 3)):
        log(f"plain and tracked weights, batch {batch}")
        commands = {name: [example, name, batch, repeats] for name in ("frozen", "tracked")}
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
