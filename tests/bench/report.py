"""The measurements as Markdown."""

import bars
from counts import CAPTUM, RULES
from tune import Setting

MEBI = 2**20
FORMS = {"mean_absolute": "mean of magnitudes", "mean": "signed mean"}
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def tunings(warm):
    """The settings of an earlier run."""
    found = (warm or {}).get("tunings", {})
    read = lambda sides: {side: [Setting(**s) for s in settings] for side, settings in sides.items()}
    return {network: {kind: read(sides) for kind, sides in kinds.items()} for network, kinds in found.items()}


def time(values):
    """`1.23 s (1.20 to 1.31)`, in milliseconds below one second."""
    median, low, high = (values[k] for k in ("median", "min", "max"))
    if median < 1:
        return f"{1e3 * median:.0f} ms ({1e3 * low:.0f} to {1e3 * high:.0f})"
    return f"{median:.2f} s ({low:.2f} to {high:.2f})"


def memory(size):
    return f"{size / MEBI:.0f} MiB"


def factor(values):
    return f"{values['median']:.2g} ({values['min']:.2g} to {values['max']:.2g})"


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def judged(parts):
    header = ["ours / theirs", "measured", "at most", "aim", ""]
    return "**Against the bars.**\n\n" + table(header, bars.rows(parts))


def warm(part):
    rows = []
    for r in part["results"]:
        if "ratio" not in r:
            why = r.get("failed") or f"maps {r['distance']:.1e} apart, allowed {r['allowed']:.1e}"
            rows.append([r["network"], r["title"], "not timed", why, "", "", ""])
            continue
        ours, peer = r["settings"]
        used = f"{ours['batch']}; {peer['batch']}, {peer['mode']}"
        cells = [time(r["ours"]), time(r["peer"]), f"**{r['ratio']['median']:.2f}**", factor(r["ratio"])]
        rows.append([r["network"], r["title"], *cells, used, f"{r['distance']:.1e}"])
    header = ["network", "work", "saliency", "PyTorch + Captum", "ratio", "of each round", "batch; batch, mode", "maps apart"]
    rows = [row + [""] * (len(header) - len(row)) for row in rows]
    text = "**Warm processes.**\n\n" + table(header, rows)
    if part.get("bf16"):
        header = ["ResNet50 gradient, PyTorch", "f32, best mode", "bf16 autocast: not the same arithmetic"]
        lines = [[f"batch {r['rows']}", time(r["f32"]), time(r["bf16"])] for r in part["bf16"]]
        text += "\n\n" + table(header, lines)
    return text


def batches(part):
    """Milliseconds a row by batch, on ResNet50."""
    found = tunings(part).get("resnet50", {}).get("gradient")
    if not found:
        return ""
    sizes = sorted({s.batch for s in found["ours"] + found["peer"]})
    modes = [("saliency", found["ours"], "")]
    modes += [(f"PyTorch, {mode}", found["peer"], mode) for mode in dict.fromkeys(s.mode for s in found["peer"])]
    rows = []
    for title, settings, mode in modes:
        by_size = {s.batch: s.seconds for s in settings if s.mode == mode}
        rows.append([title, *(f"{1e3 * by_size[n]:.0f}" if n in by_size else "" for n in sizes)])
    return "**Gradient of ResNet50, ms an image, by batch.**\n\n" + table(["batch", *map(str, sizes)], rows)


def memories(part):
    header = ["peak memory, ResNet50", "saliency", "PyTorch + Captum", "ratio", "above the loaded model: saliency", "PyTorch", "ratio"]
    rows = [
        [
            r["title"],
            memory(r["ours"]["whole"]),
            memory(r["peer"]["whole"]),
            f"**{r['ratio']:.2f}**",
            memory(r["ours"]["increase"]),
            memory(r["peer"]["increase"]),
            f"{r['ratio_increase']:.2f}",
        ]
        for r in part["results"]
    ]
    return "**Memory, each work in a process of its own.**\n\n" + table(header, rows)


def cold(part):
    rows = [
        [
            r["title"],
            time(r["ours"]["seconds"]),
            time(r["peer"]["seconds"]),
            factor(r["ratio"]),
            memory(r["ours"]["peak"]["median"]),
            memory(r["peer"]["peak"]["median"]),
            f"{r['maps']['distance']:.1e}",
        ]
        for r in part["results"]
    ]
    header = ["cold start", "saliency", "PyTorch + Captum", "ratio"]
    header += ["peak memory, ours", "theirs", "maps apart"]
    return "**Cold start.**\n\n" + table(header, rows) + "\n\n" + phases(part["results"])


def phases(results):
    """What the peer's time went to, and what is left of it without the import."""
    names = list(results[0]["phases"])
    milliseconds = lambda seconds: f"{1e3 * seconds:.0f} ms"
    rows = []
    for r in results:
        rest = sum(seconds for name, seconds in r["phases"].items() if name != "import")
        whole = r["ours"]["seconds"]["median"]
        parts = [*r["phases"].values(), rest, whole]
        rows.append([r["title"], *(milliseconds(p) for p in parts)])
    header = ["inside the PyTorch process", *names, "all but the import", "saliency, whole process"]
    return table(header, rows)


def scaling(part):
    titles = {"samples": "SmoothGrad, {} samples", "side": "gradient, {0}x{0} pixels"}
    rows = [
        [titles[r["axis"]].format(r["value"]), time(r["ours"]), time(r["peer"]), factor(r["ratio"])]
        for r in part["results"]
    ]
    return "**Growth, ResNet50.**\n\n" + table(["", "saliency", "PyTorch + Captum", "ratio"], rows)


def counts(part):
    rows = []
    for study in part["smoothgrad"]:
        base = study["designs"]["independent"]
        label = [study["network"], FORMS[study["form"]]]
        percent = lambda error: f"{100 * error:.1f} %"
        rows.append([*label, f"independent, {CAPTUM} samples as Captum's default", percent(base["captum"]), "", "", ""])
        for design, found in study["designs"].items():
            errors = dict(zip(found["samples"], found["errors"]))
            shown = [percent(errors[n]) for n in (16, 64)]
            rows.append([*label, design, "", *shown, f"{found['needed']:.0f} ({found['needed'] / base['needed']:.2f})"])
    text = "**SmoothGrad's relative error by its samples, and samples for 5 % (of independent ones).**\n\n"
    text += table(["network", "form", "noise", f"{CAPTUM} samples", "16 samples", "64 samples", "for 5 %"], rows)
    rows = []
    for ig in part["ig"]:
        show = lambda needed: ", ".join(str(n) if n else f"over {max(ig['steps'])}" for n in needed)
        mean = lambda values: f"{100 * sum(values) / len(values):.2g} %"
        rows += [[ig["network"], f"Captum, {RULES[name]}", show(r["needed"]), "", mean(r["maps"])] for name, r in ig["rules"].items()]
        worst = f"{100 * max(ig['adaptive']['errors']):.2g} %"
        gradients = f"{ig['adaptive']['gradients']:.0f} on average"
        rows.append([ig["network"], "saliency, adaptive, all counted", gradients, worst, mean(ig["adaptive"]["maps"])])
    text += "\n\n**Gradients for IG's delta under 1 % of the score's change, image by image.**\n\n"
    return text + table(["network", "rule", "gradients", "largest delta", "the map's error, mean"], rows)


def frozen(part):
    rows = []
    for result in part["results"]:
        base = result["frozen"]["seconds"]["median"]
        for name, label in {"frozen": "plain weights", "tracked": "tracked weights"}.items():
            r = result[name]
            own = r["peak"]["median"] - r["before"]["median"]
            rows.append(
                [
                    f"batch {result['batch']}",
                    label,
                    time(r["seconds"]),
                    f"{r['seconds']['median'] / base:.2f}",
                    memory(r["peak"]["median"]),
                    memory(own),
                ]
            )
    header = ["Burn's own operations", "", "time", "of plain weights", "peak memory", "of that by the gradient"]
    return "**Weights.**\n\n" + table(header, rows)


def gpu(part):
    """Milliseconds of each variant; ratios to PyTorch's best in f32."""
    variants = list(dict.fromkeys(name for r in part["results"] for name in r["variants"]))
    rows, far = [], []
    for r in part["results"]:
        medians = {name: found["seconds"]["median"] for name, found in r["variants"].items()}
        plain = min(medians[name] for name in ("PyTorch eager", "PyTorch channels_last"))
        show = lambda name: f"{1e3 * medians[name]:.1f} ({medians[name] / plain:.2f})" if name in medians else ""
        rows.append([r["network"], r["title"], *map(show, variants)])
        distances = {name: f"{found['distance']:.1e}" for name, found in r["variants"].items()}
        far.append([r["network"], r["title"], *(distances.get(name, "") for name in variants)])
    versions = ", ".join(f"{name} {part['versions'][name]}" for name in ("saliency", "torch", "captum"))
    cold, kept = (f["gradients"][0] for f in part["first"])
    header = ["network", "work", *variants]
    return (
        f"**{part['device']['name']}, driver {part['device']['driver']}; ours on {part['ours']['device']}; {versions}.** "
        f"Milliseconds, in brackets of PyTorch's best in f32. The first gradient of a process takes {cold:.1f} s, "
        f"and {kept:.1f} s where an earlier process left its compiled and tuned kernels.\n\n"
        + table(header, rows)
        + "\n\nRelative L2 distance of the maps from PyTorch's in f32:\n\n"
        + table(header, far)
    )


def profile(part):
    texts = []
    for batch, found in part["batches"].items():
        both = lambda layer: layer["forward"] + layer["backward"]
        total = sum(both(layer) for layer in found["layers"])
        rows = []
        for layer in sorted(found["layers"], key=both, reverse=True)[:12]:
            rate = lambda way: f"{layer[way + '_gflops']:.0f}" if layer[way + "_gflops"] else ""
            times = [f"{1e3 * layer['forward']:.2f}", rate("forward"), f"{1e3 * layer['backward']:.2f}", rate("backward")]
            rows.append([layer["name"], layer["kind"], *times, f"{100 * both(layer) / total:.1f} %"])
        header = ["layer", "", "forward, ms", "GFLOP/s", "backward, ms", "GFLOP/s", "share"]
        texts.append(
            f"**The twelve slowest layers of ResNet50, batch {batch}** (of {1e3 * total:.0f} ms; a matrix product "
            f"of size {found['peak_size']} runs at {found['peak_gflops']:.0f} GFLOP/s).\n\n" + table(header, rows)
        )
    return "\n\n".join(texts)


def markdown(parts):
    about = next((part for part in parts.values() if part), None)
    if about is None:
        return "Nothing was measured.\n"
    machine, versions = about["machine"], about["versions"]
    programs = ", ".join(f"{name} {version}" for name, version in versions.items())
    texts = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}; {programs}. "
        f"Medians of {about['rounds']} rounds, smallest and largest in brackets.",
        judged(parts),
    ]
    makers = {
        "warm": lambda part: "\n\n".join(filter(None, [warm(part), batches(part)])),
        "memory": memories,
        "cold": cold,
        "scaling": scaling,
        "counts": counts,
        "frozen": frozen,
        "profile": profile,
        "gpu-cuda": gpu,
        "gpu-wgpu": gpu,
    }
    texts += [make(parts[name]) for name, make in makers.items() if parts.get(name)]
    return "\n\n".join(texts) + "\n"


def insert(path, text):
    """Replaces what is between the markers of the file."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{path} has no line {BEGIN} followed by {END}")
    part = path.with_suffix(".md.part")
    part.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")
    part.rename(path)
