"""A job on the terminal: one bar with phase, step, loss and time left; what happens scrolls by above it."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from app.client import Client

_SCROLLING = ("phase", "checkpoint", "log", "warning", "evaluation", "attempt")
_MODELS = (("teacher", "teacher"), ("baseline", "student, not distilled"), ("student", "student"), ("quantized", "student INT8"))


def follow(api: Client, job_id: str, out: Console, err: Console) -> int:
    """0 when it succeeded, 1 when it failed, 2 when it was cancelled, 130 when the watcher left."""
    job: dict[str, Any] = {}
    columns = (TextColumn("{task.fields[what]:<34}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[left]}"))
    try:
        with Progress(*columns, console=out) as bar:
            task = bar.add_task("", total=100, what="", left="")
            for job, events in api.follow(job_id):
                for event in events:
                    if line := event_line(event):
                        bar.console.print(line)
                progress = job.get("progress") or {}
                bar.update(task, completed=progress.get("percent") or 0, what=doing(job), left=left(progress))
    except KeyboardInterrupt:
        err.print(f"\nThe job goes on. Look again: retort watch {job_id} · stop it: retort cancel {job_id}")
        return 130
    return conclude(job, out, err)


def doing(job: Mapping[str, Any]) -> str:
    """`training output 1,200/4,000 loss 0.213`"""
    progress = job.get("progress") or {}
    if job["status"] != "running":
        ahead = (job.get("queue") or {}).get("jobs_ahead")
        return f"{job['status']}, {ahead} ahead" if job["status"] == "queued" and ahead else str(job["status"])
    words = [str(job.get("phase") or "starting")]
    if progress.get("stage"):
        words.append(str(progress["stage"]))
    if progress.get("total_steps"):
        words.append(f"{progress.get('step', 0):,}/{progress['total_steps']:,}")
    if isinstance(progress.get("loss"), int | float):
        words.append(f"loss {progress['loss']:.3f}")
    return " ".join(words)


def left(progress: Mapping[str, Any]) -> str:
    seconds = progress.get("eta_seconds")
    if not isinstance(seconds, int | float):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02} left" if minutes >= 60 else f"{minutes}:{rest:02} left"


def event_line(event: Mapping[str, Any]) -> str | None:
    under_way = (event.get("data") or {}).get("status") == "in_progress"  # the bar says so
    if event["type"] not in _SCROLLING or under_way:
        return None
    text = escape(str(event.get("message") or ""))
    if event["type"] == "warning" or event.get("level") == "warning":
        return f"[yellow]warning[/] {text}"
    if event.get("level") == "error":
        return f"[red]error[/] {text}"
    return f"[dim]{event['type']:<10}[/] {text}" if text else None


def conclude(job: Mapping[str, Any], out: Console, err: Console) -> int:
    if job["status"] == "succeeded":
        result = job.get("result") or {}
        out.print(f"[bold green]succeeded[/] model [bold]{escape(str(result.get('model')))}[/]")
        if report := result.get("report"):
            out.print(report_table(report))
        return 0
    error = job.get("error") or {}
    reason = error.get("message") or job.get("status_reason") or ""
    err.print(f"[bold red]{job['status']}[/] {escape(str(error.get('code') or ''))} {escape(str(reason))}")
    if error.get("hint"):
        err.print(f"[bold]what to do[/] {escape(str(error['hint']))}")
    return 2 if job["status"] == "cancelled" else 1


def report_table(report: Mapping[str, Any]) -> Group:
    """Teacher, undistilled student, student and its INT8 form, measured in one run."""
    table = Table("", str(report.get("metric", "quality")), "texts/s", "p50 ms", "p99 ms", "MB", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for key, name in _MODELS:
        if not (row := report.get(key)):
            continue
        latency = row.get("latency_ms") or {}
        cells = (
            (row.get("quality"), ".4f"),
            (row.get("throughput"), ",.0f"),
            (latency.get("p50"), ".2f"),
            (latency.get("p99"), ".2f"),
            (row["bytes"] / 1e6 if row.get("bytes") else None, ".1f"),
        )
        table.add_row(name, *(format(v, f) if isinstance(v, int | float) else "-" for v, f in cells))
    said = []
    for key, words in (
        ("retention", "{:.1%} of the teacher's quality"),
        ("speedup", "{:.1f} times its speed"),
        ("size_ratio", "{:.1%} of its bytes"),
    ):
        if isinstance(report.get(key), int | float):
            said.append(words.format(report[key]))
    return Group(table, "[bold]" + " · ".join(said) + "[/]" if said else "")
