"""The measurements as Markdown."""

MEBI = 2**20
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def time(values):
    """`1.23 s (1.20 to 1.31)`, in milliseconds below one second."""
    median, low, high = (values[k] for k in ("median", "min", "max"))
    if median < 1:
        return f"{1e3 * median:.0f} ms ({1e3 * low:.0f} to {1e3 * high:.0f})"
    return f"{median:.2f} s ({low:.2f} to {high:.2f})"


def memory(values):
    return f"{values['median'] / MEBI:.0f} MiB"


def factor(values):
    """Our time over theirs, in words."""
    ratio = values["median"]
    bounds = f"{ratio:.2g} ({values['min']:.2g} to {values['max']:.2g})"
    if values["min"] < 1 < values["max"]:
        return f"{bounds}, no clear difference"
    word = "faster" if ratio < 1 else "slower"
    return f"{bounds}, {max(ratio, 1 / ratio):.2g} times {word}"


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cold(results):
    rows = [
        [
            r["title"],
            time(r["ours"]["seconds"]),
            time(r["peer"]["seconds"]),
            factor(r["ratio"]),
            memory(r["ours"]["peak"]),
            memory(r["peer"]["peak"]),
            f"{r['maps']['distance']:.1e}",
        ]
        for r in results
    ]
    header = ["cold start", "saliency", "PyTorch + Captum", "time, ours / theirs"]
    header += ["peak memory, ours", "theirs", "maps differ by"]
    return table(header, rows)


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


def gradients(results):
    rows = []
    labels = {"frozen": "saliency, plain weights", "tracked": "saliency, tracked weights", "peer": "PyTorch + Captum"}
    for result in results:
        base = result["frozen"]["seconds"]["median"]
        for name, label in labels.items():
            r = result[name]
            own = r["peak"]["median"] - r["before"]["median"]
            rows.append(
                [
                    f"batch {result['batch']}",
                    label,
                    time(r["seconds"]),
                    f"{r['seconds']['median'] / base:.2f}",
                    memory(r["peak"]),
                    f"{own / MEBI:.0f} MiB",
                ]
            )
    header = ["ResNet50 gradient", "", "time", "of plain weights", "peak memory", "of that by the gradient"]
    return table(header, rows)


def markdown(result):
    machine, versions = result["machine"], result["versions"]
    programs = ", ".join(f"{name} {version}" for name, version in versions.items())
    parts = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}; {programs}. "
        f"Medians of {result['rounds']} rounds, smallest and largest in brackets."
    ]
    if "cold" in result:
        parts += [cold(result["cold"]), phases(result["cold"])]
    if "gradient" in result:
        parts.append(gradients(result["gradient"]))
    return "\n\n".join(parts) + "\n"


def insert(path, text):
    """Replaces what is between the markers of the file."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{path} has no line {BEGIN} followed by {END}")
    path.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")
