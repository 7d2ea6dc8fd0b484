"""The report as a Markdown page. Names, labels and messages are users' text: nothing of them becomes markup."""

from typing import Any

from worker.evaluators import plan, tables
from worker.evaluators.tables import Table


def markdown(report: dict[str, Any]) -> str:
    summary = report["summary"]
    headline = ", ".join(f"**{figure}** {words}" for figure, words in tables.headline(summary))
    parts = [f"# {_plain(report['name'])}", "", headline + ("." if headline else ""), ""]
    if summary.get("gap_closed") is not None:
        parts += [f"{gap_text(summary['gap_closed'])}.", ""]
    for table in tables.tables(report):
        parts += [*([] if table.title == "Overview" else [f"## {_plain(table.title)}", ""]), *_table(table), ""]
    if (report.get("quantization") or {}).get("parity"):
        parts += [f"## {tables.precision(report)} against float", "", parity_text(report), ""]
    parts += ["## Plan", "", *_plan(report), ""]
    if report["warnings"]:
        parts += ["## Warnings", "", *(f"- `{_plain(w['code'])}`: {_plain(w['message'])}" for w in report["warnings"]), ""]
    parts += ["## How it was measured", "", *(f"- {line}" for line in report["how"]), ""]
    return "\n".join(parts)


def gap_text(share: float) -> str:
    return f"Distillation closed {share:.0%} of the gap between the student that is not distilled and the teacher"


def parity_text(report: dict[str, Any]) -> str:
    quantization, parity = report["quantization"], report["quantization"]["parity"]
    said = (
        ("agreement", "same answer for {:.2%}"),
        ("min_cosine", "smallest cosine of the vectors {:.5f}"),
        ("max_abs_logit_diff", "largest logit difference {:.3f}"),
    )
    found = ", ".join(words.format(parity[key]) for key, words in said if parity.get(key) is not None)
    text = f"Over {quantization['rows']} validation rows: {found}"
    if parity.get("batch_drift") is not None:
        text += f"; a row's answer moves by at most {parity['batch_drift']:.1e} with its batch"
    text += "."
    if "quantized" in quantization:
        text += f" {quantization['quantized']} weight matrices are {tables.precision(report)}"
        text += f", {quantization['kept_float']} stayed in float."
    for fallback in quantization.get("fallbacks") or []:
        errors = "{error_before:.3g} to {error_after:.3g}".format(**fallback)
        text += f" {fallback['matrix']} is {fallback['form']}, which takes the error on the calibration rows from {errors}."
    return text


def _plan(report: dict[str, Any]) -> list[str]:
    lines = [
        f"- {name}: `{_plain(text)}`" if name.startswith("teacher") else f"- {name}: {_plain(text)}"
        for name, text in plan.facts(report)
    ]
    for stage in plan.stages(report):
        lines.append(f"- stage `{stage.name}`: {_plain(stage.text)}")
        lines += [f"    - {_plain(name)}: {_plain(text)}" for name, text in [*stage.objectives, *stage.facts]]
    return lines


def _table(table: Table) -> list[str]:
    return [_row(table.head), _row(["---"] + ["---:"] * (len(table.head) - 1)), *(_row(r) for r in table.rows)]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(_plain(c).replace("|", "\\|") for c in cells) + " |"


def _plain(text: str) -> str:
    """One line without HTML, links or emphasis that the text may try to be."""
    line = " ".join(str(text).split())
    for mark, harmless in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("[", "\\["), ("`", "\\`")):
        line = line.replace(mark, harmless)
    return line
