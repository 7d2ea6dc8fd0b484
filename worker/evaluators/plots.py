"""Plots of a report as SVG for a page: same report, same bytes. Colours are CSS variables, so the page decides light or dark.

matplotlib is imported when the first plot is drawn: the run child must not pay for it at its start.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

from worker.evaluators import tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.0  # inches, of one column: on a telephone about the size it is drawn at
_INK, _LINE = "#30343b", "#c9ced6"
_SERIES = ("#2563eb", "#d9480f", "#0f9d6c", "#9333ea", "#b98900", "#db2777", "#0891b2", "#64748b")
_MODELS = {"teacher": _SERIES[7], "baseline": _SERIES[4], "student": _SERIES[0], "quantized": _SERIES[2]}
_VARIABLES = {_INK: "ink", _LINE: "line"} | {colour: f"series-{n}" for n, colour in enumerate(_SERIES)}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, readable by a screen reader, in the page's own font
    "svg.hashsalt": "retort",
    "text.parse_math": False,  # a label may hold a dollar sign
    "axes.unicode_minus": True,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), _LINE),
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
}
_MOST_STAGES, _MOST_POINTS = 8, 300  # of a plot; what else there is stands in report.json


def plots(report: dict[str, Any]) -> list[tuple[str, str]]:
    """(caption, SVG) of every plot that the report has figures for."""
    metric = tables.metric_title(report["summary"]["metric"])
    curves = report.get("curves") or {}
    found = [
        (f"Quality ({metric}, with 95 % intervals) and size", quality_and_size(report)),
        ("The search: quality against latency; a larger dot is a larger model, a pale one was not trained in full", trials(report)),
        ("Calibration: how sure a model is, and how often it is right", reliability(report)),
        ("Short and long texts", by_length(report)),
        ("Loss of each objective", curve(curves, "loss", "loss")),
        ("Gradient norm of each objective", curve(curves, "grad_norm", "gradient norm")),
    ]
    return [(caption, svg) for caption, svg in found if svg]


def quality_and_size(report: dict[str, Any]) -> str:
    """Horizontal bars: the main metric with its interval, and megabytes."""
    summary, who, titles = report["summary"], tables.present(report), tables.titles(report)
    places = list(range(len(who)))[::-1]
    with _figure(0.7 + 0.42 * len(who), columns=2, sharey=True, width_ratios=[3, 2]) as (figure, (left, right)):
        for place, name in zip(places, who, strict=True):
            block, colour = summary[name], _MODELS[name]
            left.barh(place, block["quality"], height=0.6, color=colour)
            end = block["quality"]
            if block["ci95"]:
                low, high = block["ci95"]
                left.plot([low, high], [place, place], color=_INK, linewidth=1.4, marker="|", markersize=6)
                end = max(end, high)
            _beside(left, end, place, f"{block['quality']:.3f}")
            if block["bytes"]:
                right.barh(place, block["bytes"] / 1e6, height=0.6, color=colour)
                _beside(right, block["bytes"] / 1e6, place, f"{block['bytes'] / 1e6:,.3g}")
        left.set_yticks(places, [titles[name] for name in who])
        left.set_xlabel(tables.metric_title(summary["metric"]))
        right.set_xlabel("MB")
        for axes in (left, right):
            axes.margins(x=0.22)
            axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
            axes.tick_params(left=False)
            axes.locator_params(axis="x", nbins=4)
        return _svg(figure, "quality-and-size", "Bars of quality and size of each model")


def reliability(report: dict[str, Any]) -> str:
    """Share that is right over the confidence, per model; on the diagonal a model is as good as it says."""
    bins = {who: b for who in tables.present(report) if (b := report["models"][who]["quality"].get("reliability"))}
    if not bins:
        return ""
    titles = tables.titles(report)
    with _figure(3.2) as (figure, axes):
        low = min(b["confidence"] for found in bins.values() for b in found)
        axes.plot([low, 1], [low, 1], color=_LINE, linestyle="--")
        for who, found in bins.items():
            most = max(b["rows"] for b in found)
            axes.plot([b["confidence"] for b in found], [b["right"] for b in found], color=_MODELS[who], label=titles[who])
            sizes = [6 + 60 * b["rows"] / most for b in found]
            axes.scatter([b["confidence"] for b in found], [b["right"] for b in found], s=sizes, color=_MODELS[who], alpha=0.6)
        axes.set(xlabel="confidence", ylabel="share that is right", ylim=(-0.03, 1.05))
        axes.grid(True)
        axes.legend()
        return _svg(figure, "reliability", "Reliability diagram of each model")


def by_length(report: dict[str, Any]) -> str:
    """The mean score of a row for the shortest, middle and longest third, per model."""
    who = [name for name in tables.present(report) if report["models"][name].get("by_length")]
    if not who:
        return ""
    buckets = report["models"][who[0]]["by_length"]
    with _figure(2.8) as (figure, axes):
        wide = 0.8 / len(who)
        for n, name in enumerate(who):
            scores = [bucket["score"] for bucket in report["models"][name]["by_length"]]
            places = [x - 0.4 + wide * (n + 0.5) for x in range(len(scores))]
            axes.bar(places, scores, width=0.9 * wide, color=_MODELS[name], label=tables.titles(report)[name])
        axes.set_xticks(range(len(buckets)), ["{}-{}\n{:,} rows".format(*b["tokens"], b["rows"]) for b in buckets])
        axes.set(xlabel="tokens", ylabel=report["models"][who[0]]["quality"].get("row_score", "score"))
        axes.grid(True, axis="y")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.22), ncols=2)
        return _svg(figure, "by-length", "Bars of quality by length of the text")


def curve(curves: Mapping[str, Any], name: str, title: str) -> str:
    """One panel per stage: `name` of the whole loss, and `objective/name` of every objective, over the steps."""
    stages = [(stage, lines) for stage, told in curves.items() if (lines := list(_lines(told, name)))][:_MOST_STAGES]
    if not stages:
        return ""
    wide = min(2, len(stages))
    tall = -(-len(stages) // wide)
    with _figure(0.5 + 2.3 * tall, rows=tall, columns=wide, squeeze=False) as (figure, grid):
        for axes, (stage, lines) in zip(grid.flat, stages, strict=False):
            for n, (label, steps, values) in enumerate(lines):
                colour, style = (_INK, ":") if label == "" else (_SERIES[(n - 1) % len(_SERIES)], "-")
                axes.plot(steps, values, color=colour, linestyle=style, linewidth=1.3, label=label or "all together")
            axes.set_title(stage, loc="left")
            if all(v > 0 for _, _, values in lines for v in values):
                _log_scale(axes)
            axes.set(xlabel="step", ylabel=title)
            axes.grid(True)
            axes.legend()
        for axes in list(grid.flat)[len(stages) :]:
            axes.set_visible(False)
        return _svg(figure, f"curve-{name}", f"{title} over the steps of each stage")


def trials(report: dict[str, Any]) -> str:
    """Quality over latency of every student that the search for a target trained; those that nothing beats are joined."""
    known = [c for c in tables.trials(report) if c.get("quality") is not None]
    if not known:
        return ""
    with _figure(3.2) as (figure, axes):
        largest = max(float(c["bytes"]) for c in known)
        front = [c for c in known if not any(_beats(other, c) for other in known)]
        front.sort(key=lambda c: float(c["latency_ms"]))
        axes.plot([c["latency_ms"] for c in front], [c["quality"] for c in front], color=_LINE, drawstyle="steps-post", zorder=1)
        for c in known:
            colour = _MODELS["quantized" if c.get("chosen") else "teacher"]
            size, pale = 20 + 180 * float(c["bytes"]) / largest, c.get("share", 1) < 1
            axes.scatter(c["latency_ms"], c["quality"], s=size, color=colour, alpha=0.35 if pale else 0.8)
            text = f"{c['name']} (chosen)" if c.get("chosen") else str(c["name"])
            axes.annotate(text[:40], (c["latency_ms"], c["quality"]), xytext=(6, 4), textcoords="offset points", fontsize=8)
        axes.set(xlabel="latency p50, ms", ylabel=tables.metric_title(report["summary"]["metric"]))
        axes.margins(x=0.25, y=0.15)
        axes.grid(True)
        return _svg(figure, "trials", "Quality against latency of the students that were tried")


def _beats(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """At least as good in both, better in one."""
    ahead = one["quality"] - other["quality"], other["latency_ms"] - one["latency_ms"]
    return bool(min(ahead) >= 0 and max(ahead) > 0)


def _lines(told: Mapping[str, Any], name: str) -> Iterator[tuple[str, list[float], list[float]]]:
    """(objective or "" for the whole, steps, values) without the steps at which nothing was noted."""
    for key, values in sorted(told["values"].items(), key=lambda item: (item[0] != name, item[0])):
        objective, _, last = key.rpartition("/")
        points = [(s, v) for s, v in zip(told["steps"], values, strict=False) if v is not None]
        points = points[:: max(1, len(points) // _MOST_POINTS)]
        if last == name and points:
            yield objective, [s for s, _ in points], [v for _, v in points]


def _log_scale(axes: "Axes") -> None:
    """With plain numbers: matplotlib's own 10^n are formulas, which are switched off."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _beside(axes: "Axes", x: float, y: float, text: str) -> None:
    axes.annotate(text, (x, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)


@contextmanager
def _figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> Iterator[tuple["Figure", Any]]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the browser's font draws it
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, figure.subplots(rows, columns, **options)


def _svg(figure: "Figure", name: str, description: str) -> str:
    out = StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _inline(out.getvalue(), name, description)


def _inline(document: str, name: str, description: str) -> str:
    """What may stand in a page: no prologue, no fixed size, no global style, ids that are used and unlike other plots'."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]+")[^>]*>', rf'<svg role="img" aria-label="{description}" \1>', svg, count=1)
    used = set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'xlink:href="#', f'href="#{name}-', svg).replace("url(#", f"url(#{name}-")
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font: \1 sans-serif", svg)
    return _recoloured(svg)


def _recoloured(svg: str) -> str:
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable}, {colour})")
    return svg
