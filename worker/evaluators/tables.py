"""The tables of a report as text, the same for Markdown and HTML. Nothing here is escaped: that is the page's business."""

from collections.abc import Callable
from typing import Any, NamedTuple

ORDER = ("teacher", "baseline", "student", "quantized")
TITLES = {"teacher": "teacher", "baseline": "student, not distilled", "student": "student"}

_METRICS = {
    "accuracy": "accuracy",
    "micro_f1": "micro F1",
    "entity_f1": "entity F1",
    "spearman": "Spearman's correlation",
    "ndcg_at_10": "nDCG@10",
    "mlm_accuracy": "accuracy of masked tokens",
    "entity_precision": "entity precision",
    "entity_recall": "entity recall",
    "token_accuracy": "token accuracy",
    "macro_f1": "macro F1",
    "subset_accuracy": "rows with every label right",
    "mean_average_precision": "mean average precision",
    "pearson": "Pearson's correlation",
    "mae": "mean absolute error",
    "mse": "mean squared error",
    "mrr_at_10": "MRR@10",
    "map": "mean average precision",
    "recall_at_1": "recall@1",
    "recall_at_10": "recall@10",
    "fidelity": "fidelity to the teacher's similarities",
    "rank_fidelity": "fidelity to the teacher's order",
    "agreement": "agreement with the teacher",
    "teacher_cosine": "cosine with the teacher's vectors",
    "uniformity": "uniformity",
    "ece": "calibration error (ECE)",
    "nll": "log loss, nats",
    "pseudo_perplexity": "pseudo-perplexity",
}


class Table(NamedTuple):
    """The first column names the row; the others are numbers."""

    title: str
    head: list[str]
    rows: list[list[str]]


def metric_title(metric: str) -> str:
    return _METRICS.get(metric, metric.replace("_", " "))


def titles(report: dict[str, Any]) -> dict[str, str]:
    return {**TITLES, "quantized": f"student, {precision(report)}"}


def precision(report: dict[str, Any]) -> str:
    """Of the quantized graph; reports of earlier releases know INT8 alone."""
    return str((report.get("quantization") or {}).get("precision") or "int8").upper()


def present(report: dict[str, Any]) -> list[str]:
    return [who for who in ORDER if who in report["models"]]


def tables(report: dict[str, Any]) -> list[Table]:
    found = [_overview(report), _gains(report), _search(report), _per_class(report), _by_length(report)]
    return [table for table in found if table is not None]


def headline(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """(figure, what of) of the served student against the teacher, those that are known."""
    found = [
        (percent(summary["retention"]), f"of the teacher's {metric_title(summary['metric'])}"),
        (times(summary["speedup"]), "its throughput"),
        (percent(summary["size_ratio"]), "of its bytes"),
    ]
    return [(figure, words) for figure, words in found if figure != "-"]


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def times(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}×"


def number(value: Any) -> str:
    """Shares to four places, everything larger to four digits."""
    if not isinstance(value, int | float):
        return "-"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.4g}"


def signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _overview(report: dict[str, Any]) -> Table:
    summary, models, who = report["summary"], report["models"], present(report)
    metric = metric_title(summary["metric"])
    teacher = summary.get("teacher", {})

    def line(title: str, show: Callable[[str], str]) -> list[str]:
        return [title, *(show(name) for name in who)]

    def against_teacher(key: str, show: Callable[[float | None], str]) -> Callable[[str], str]:
        below = teacher.get(key)
        return lambda name: show(summary[name][key] / below if below and below > 0 and summary[name][key] is not None else None)

    rows = [line(metric, lambda name: number(summary[name]["quality"])), line("95 % interval", lambda n: span(summary[n]["ci95"]))]
    rows += [line(title, lambda n, k=key: number(models[n]["quality"].get(k))) for key, title in _other_figures(report)]  # type: ignore[misc]
    rows += _speed_rows(report, line)
    rows += [
        line("cost of a million requests, USD", lambda n: number(summary[n].get("cost_per_million"))),
        line("bytes", lambda n: _whole(summary[n]["bytes"])),
        line("parameters", lambda n: _whole(summary[n]["params"])),
        line("peak memory, MB", lambda n: f"{m / 1e6:.0f}" if (m := summary[n]["peak_memory_bytes"]) else "-"),
        line(f"{metric} retained", against_teacher("quality", percent)),
        line("speed-up", against_teacher("throughput", times)),
        line("size ratio", against_teacher("bytes", percent)),
    ]
    known = [row for row in rows if set(row[1:]) != {"-"}]
    return Table("Overview", ["", *(titles(report)[name] for name in who)], known)


def span(interval: list[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.3f}-{interval[1]:.3f}".replace("--", "-−")


def _other_figures(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Named figures beside the main one; agreement only where it is not just another name of one that is shown."""
    quality = [report["models"][who]["quality"] for who in present(report)]
    keys = set.intersection(*(set(q) for q in quality)) - {report["summary"]["metric"]}
    if any(key in quality[0] for key in ("fidelity", "rank_fidelity")):
        keys -= {"agreement"}
    return [(key, title) for key, title in _METRICS.items() if key in keys]


def _speed_rows(report: dict[str, Any], line: Callable[[str, Callable[[str], str]], list[str]]) -> list[list[str]]:
    speed = {who: report["models"][who].get("speed") or {} for who in present(report)}

    def latency(who: str) -> str:
        ms = speed[who].get("latency_ms")
        return f"{ms['p50']:.2f} / {ms['p99']:.2f}" if ms else "-"

    def rate(size: str) -> Callable[[str], str]:
        return lambda who: _whole(speed[who].get("rows_per_second", {}).get(size))

    return [
        line("latency p50 / p99, ms", latency),
        *(line(f"rows/s at batch {size}", rate(size)) for size in ("1", "8", "32")),
        line("throughput, rows/s", lambda who: _whole(speed[who].get("throughput"))),
    ]


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _gains(report: dict[str, Any]) -> Table | None:
    summary, named = report["summary"], titles(report)
    rows = [
        [
            f"{named[g['of']]} over {named[g['over']]}",
            signed(g["value"]),
            _signed_span(g["ci95"]),
            "yes" if g["significant"] else "no",
        ]
        for g in summary.get("gains") or []
    ]
    if not rows:
        return None
    return Table(
        f"What each step gained ({metric_title(summary['metric'])})",
        ["", "difference", "95 % interval, paired", "significant"],
        rows,
    )


def _signed_span(interval: list[float]) -> str:
    return f"{signed(interval[0])} to {signed(interval[1])}"


def trials(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Students that were tried for a target; the smallest first."""
    found = (report.get("search") or {}).get("trials") or []
    return sorted(found, key=lambda trial: (trial["bytes"], trial["latency_ms"]))


def _search(report: dict[str, Any]) -> Table | None:
    rows = [
        [
            t["name"] + (" (chosen)" if t.get("chosen") else ""),
            number(t["quality"]),
            percent(t.get("retention")),
            f"{t['latency_ms']:.2f}",
            times(t.get("speedup")),
            _whole(t["bytes"]),
            percent(t.get("share") or None),
        ]
        for t in trials(report)
    ]
    head = ["student", "quality, validation", "retained", "latency p50, ms", "speed-up", "bytes", "trained"]
    return Table("The search for the target", head, rows) if rows else None


def _per_class(report: dict[str, Any]) -> Table | None:
    quality = [report["models"][who]["quality"] for who in present(report)]
    classes = quality[0]["per_class"]
    if not classes:
        return None
    rows = [[c["label"], str(c["support"]), *(f"{q['per_class'][n]['f1']:.3f}" for q in quality)] for n, c in enumerate(classes)]
    return Table("Per class (F1)", ["class", "rows", *(titles(report)[who] for who in present(report))], rows)


def _by_length(report: dict[str, Any]) -> Table | None:
    who = present(report)
    buckets = report["models"][who[0]].get("by_length")
    if not buckets:
        return None
    score = report["models"][who[0]]["quality"].get("row_score", "score")
    rows = [
        [
            "{}-{}".format(*bucket["tokens"]),
            str(bucket["rows"]),
            *(f"{report['models'][name]['by_length'][n]['score']:.3f}" for name in who),
        ]
        for n, bucket in enumerate(buckets)
    ]
    return Table(f"By length ({score})", ["tokens", "rows", *(titles(report)[name] for name in who)], rows)
