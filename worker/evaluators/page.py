"""The report as one HTML file that needs nothing else: no scripts, no network, light and dark. Everything in it is escaped."""

from pathlib import Path
from typing import Any

from worker.evaluators import markdown, plan, plots, tables

_TEMPLATE = Path(__file__).with_name("page.html.j2")


def render(report: dict[str, Any]) -> str:
    """From the dictionary of report.json; what it lacks is left out."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    summary = report["summary"]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    gap = summary.get("gap_closed")
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        report=report,
        task=report["plan"].get("task", ""),
        tiles=_tiles(summary),
        gap=None if gap is None else markdown.gap_text(gap),
        tables=tables.tables(report),
        plots=[(caption, Markup(svg)) for caption, svg in plots.plots(report)],  # matplotlib escaped its texts
        parity=markdown.parity_text(report) if (report.get("quantization") or {}).get("parity") else None,
        precision=tables.precision(report),
        facts=plan.facts(report),
        stages=plan.stages(report),
    )


def _tiles(summary: dict[str, Any]) -> list[tuple[str, str]]:
    served = summary.get("quantized") or summary["student"]
    cost = served.get("cost_per_million")
    return [*tables.headline(summary), *([] if cost is None else [(f"${cost:,.2g}", "for a million requests")])]
