"""Evaluations for the same answer: samples of SmoothGrad, and steps of Integrated Gradients."""

import math
from array import array
from pathlib import Path

from server import Refused

STEPS = (8, 16, 25, 35, 50, 75, 100, 150, 200, 300, 400, 600, 800, 1200, 1600)
REFERENCE = 2000
# Captum's names of the rules.
RULES = {"gausslegendre": "Gauss-Legendre, Captum's default", "riemann_trapezoid": "trapezoid"}
# Noise of SmoothGrad's samples, as the option `design` has it.
DESIGNS = ("independent", "antithetic", "latin_hypercube", "sobol")
# Samples that Captum's NoiseTunnel takes by default.
CAPTUM = 5
# Network, size of its pictures, how many of them, batch, rules, most steps.
STUDIES = (
    ("demo", 96, 8, 64, tuple(RULES), 1600),
    ("resnet50", 224, 1, 8, ("gausslegendre",), 400),
)


def smoothgrad(ours, quick, log):
    """Samples for 5 % relative error by design. The error of independent samples falls with
    1 / sqrt(n) exactly; where 5 % lies outside what was taken, the last error goes on so."""
    results = []
    for network, side, samples, replicates, batch in (("demo", 96, 256, 16, 64), ("resnet50", 224, 64, 4, 8)):
        if quick and network == "resnet50":
            continue
        forms = {"mean_absolute": {}, "mean": {}}
        for design in DESIGNS:
            request = {"network": network, "side": side, "samples": samples}
            request |= {"replicates": replicates, "batch": batch}
            answer = ours.ask(900, do="sampling-error", design=design, **request)
            for form, found in forms.items():
                needed = crossing(answer["samples"], answer[form], 0.05)
                found[design] = {"samples": answer["samples"], "errors": answer[form], "needed": needed}
                if design == "independent":
                    found[design]["captum"] = answer[form][-1] * math.sqrt(samples / CAPTUM)
                log(f"  SmoothGrad on {network}, {form}, {design}: {needed:.0f} samples for 5 %")
        results += [{"network": network, "form": form, "designs": found} for form, found in forms.items()]
    return results


def crossing(counts, errors, target):
    """Where the error is the target, between two counts on a line in logarithms."""
    if errors[0] <= target:
        return counts[0]
    for (n, e), (m, f) in zip(zip(counts, errors), zip(counts[1:], errors[1:])):
        if f <= target < e:
            part = math.log(e / target) / math.log(e / f)
            return n * (m / n) ** part
    return counts[-1] * (errors[-1] / target) ** 2


def deltas(answer):
    """|delta| / |f(x) - f(0)| of each row."""
    return [abs(d / g) for d, g in zip(answer["delta"], answer["gap"])]


def rows_of(file, rows):
    """The rows of a saved map."""
    values = array("f")
    values.frombytes(file.read_bytes())
    size = len(values) // rows
    return [values[row * size : (row + 1) * size] for row in range(rows)]


def apart(got, reference):
    """Relative L2 distance."""
    return math.dist(got, reference) / math.hypot(*reference)


def integrated_gradients(ours, peer, quick, networks, out, log):
    """Gradients for |delta| under 1 % of the score's change: by Captum's rules with the fewest of
    STEPS that get there, and by this project's adaptive rule, all gradients counted; and how far
    those maps are from one of REFERENCE steps."""
    results = []
    for network, side, rows, batch, rules, most in STUDIES:
        if network not in networks or (quick and network == "resnet50"):
            continue
        request = {"do": "measure", "network": network, "work": "integrated-gradients"}
        request |= {"rows": rows, "side": side, "batch": batch}
        # The demo model's scenes are drawn by this project.
        file = out / f"{network}-input.f32"
        ours.ask(do="measure", network=network, work="input", rows=rows, side=side, save=str(file))
        result = {"network": network, "steps": [n for n in STEPS if n <= most], "rules": {}}
        map = out / f"{network}-map.f32"
        ours.ask(1800, **request, rule="riemann_middle", samples=REFERENCE, save=str(map))
        reference = rows_of(map, rows)
        for rule in rules:
            asked = request | {"rule": rule, "input": str(file), "save": str(map)}
            result["rules"][rule] = captum(peer, asked, reference, result["steps"])
            log(f"  IG on {network}, {RULES[rule]}: {result['rules'][rule]['needed']} gradients for a delta under 1 %")
        file.unlink()
        answer = ours.ask(900, **request, rule="adaptive", samples=9, tolerance=0.01, most=most, save=str(map))
        result["adaptive"] = {
            "gradients": answer["gradients"] / rows,
            "errors": deltas(answer),
            "maps": [apart(got, want) for got, want in zip(rows_of(map, rows), reference)],
        }
        map.unlink()
        log(f"  IG on {network}, adaptive: {answer['gradients'] / rows:.0f} gradients a row, deltas {deltas(answer)}")
        results.append(result)
    return results


def captum(peer, request, reference, steps):
    needed, errors, maps = {}, {}, {}
    for n in steps:
        errors[n] = deltas(peer.ask(900, **request, samples=n))
        found = rows_of(Path(request["save"]), len(reference))
        for row, error in enumerate(errors[n]):
            if row not in needed:
                maps[row] = apart(found[row], reference[row])
            if error <= 0.01:
                needed.setdefault(row, n)
        if len(needed) == len(reference):
            break
    rows = range(len(reference))
    return {"needed": [needed.get(row) for row in rows], "errors": errors, "maps": [maps[row] for row in rows]}


def measure(ours, peer, quick, networks, works, last, out, log):
    """Of some works, those are measured again on some networks, and the rest is the last run's."""
    found = {"smoothgrad": last.get("smoothgrad", [])}
    if not works or "smoothgrad" in works:
        found["smoothgrad"] = smoothgrad(ours, quick, log)
    studies = [study[0] for study in STUDIES]
    if works:
        studies = [n for n in studies if n in networks and "integrated-gradients" in works]
    kept = [ig for ig in last.get("ig", []) if works and ig["network"] not in studies]
    try:
        found["ig"] = integrated_gradients(ours, peer, quick, studies, out, log) + kept
    except Refused as reason:
        log(f"  IG: FAILED: {reason}")
        found["ig"] = kept
    found["ig"].sort(key=lambda ig: [study[0] for study in STUDIES].index(ig["network"]))
    return found
