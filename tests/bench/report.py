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
    bounds = f"{values['min']:.2f} to {values['max']:.2f}"
    word = "faster" if ratio < 1 else "slower"
    if values["min"] < 1 < values["max"]:
        word = "no clear difference"
        return f"{ratio:.2f} ({bounds}), {word}"
    return f"{ratio:.2f} ({bounds}), {max(ratio, 1 / ratio):.1f} times {word}"


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
    names = list(results[0]["phases"])
    rows = [[r["title"], *(f"{1e3 * r['phases'][n]:.0f} ms" for n in names)] for r in results]
    return table(["inside the PyTorch process", *names], rows)


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
