"""What has to be shown: ratios of this project's figure to the peer's best configuration."""

# Work, at most, aim.
BARS = [
    ("ResNet50 gradient, batch 1", 0.9, 0.6),
    ("ResNet50 gradient, batch 8, per image", 0.9, 0.6),
    ("SmoothGrad-50, ResNet50", 0.8, 0.5),
    ("IG-50, ResNet50", 0.8, 0.5),
    ("Grad-CAM, ResNet50", 0.8, 0.5),
    ("peak memory of those, the worst", 0.5, 0.25),
    ("cold start, `saliency explain` against the Python script", 0.2, 0.1),
    ("samples for SmoothGrad's map at 5 % relative error, against plain sampling", 0.7, 0.5),
    ("gradient evaluations for IG's delta under 1 %, against Captum's default rule", 0.6, 0.3),
]
TIMED = ("gradient, batch 1", "gradient, batch 8", "SmoothGrad-50", "IG-50", "Grad-CAM")


def figures(parts):
    """The measured ratio of each bar, with the network where it is a choice; None where it was
    not measured."""
    timed = {
        r["title"]: r["ratio"]["median"]
        for r in (parts.get("warm") or {}).get("results", [])
        if r["network"] == "resnet50" and "ratio" in r
    }
    memories = [r["ratio"] for r in (parts.get("memory") or {}).get("results", []) if r["title"] in TIMED]
    starts = [r["ratio"]["median"] for r in (parts.get("cold") or {}).get("results", [])]
    return [
        *(timed.get(title) for title in TIMED),
        max(memories, default=None),
        max(starts, default=None),
        samples(parts.get("counts")),
        steps(parts.get("counts")),
    ]


def samples(counts):
    """The best design's samples over those of independent ones, of the default form, on the demo
    model: ResNet50's weights are random here, and its gradients as noisy as the noise."""
    studies = [s for s in (counts or {}).get("smoothgrad", []) if s["form"] == "mean_absolute"]
    if not studies:
        return None
    designs = studies[0]["designs"]
    fewest = min(d["needed"] for name, d in designs.items() if name != "independent")
    return fewest / designs["independent"]["needed"], studies[0]["network"]


def steps(counts):
    """Our gradients over Captum's default rule's, on average, on ResNet50 where both got there,
    else on the demo model."""
    for ig in reversed((counts or {}).get("ig", [])):
        needed = ig["rules"]["gausslegendre"]["needed"]
        if None not in needed and max(ig["adaptive"]["errors"]) <= 0.01:
            return ig["adaptive"]["gradients"] / (sum(needed) / len(needed)), ig["network"]
    return None


def rows(parts):
    lines = []
    for (title, most, aim), figure in zip(BARS, figures(parts)):
        if isinstance(figure, tuple):
            figure, network = figure
            title += f" ({network})"
        if figure is None:
            mark, shown = "not measured", ""
        else:
            shown = f"{figure:.2f}"
            mark = "aim met" if figure <= aim else "met" if figure <= most else "**missed**"
        lines.append([title, shown, f"{most}", f"{aim}", mark])
    return lines
