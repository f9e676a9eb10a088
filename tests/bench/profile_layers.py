"""Where the time of a gradient goes, by `saliency profile`."""

import json

from measure import run


def measure(saliency):
    """{batch: what `saliency profile --json` prints}."""
    command = [saliency, "profile", "--model", "resnet50", "--json", "--rows"]
    return {"batches": {batch: json.loads(run([*command, batch]).output) for batch in ("1", "8")}}
