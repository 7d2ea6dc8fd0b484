"""What the phases that train share: the task's head, prepared rows as tokens, a place for checkpoints, curves and events."""

import json
from pathlib import Path
from typing import Any, Literal

from transformers import AutoTokenizer

from worker.heads.base import Head
from worker.heads.registry import head_for
from worker.phases.base import Context
from worker.precision import device_of, mixed_precision
from worker.rows import Rows
from worker.run import protocol
from worker.training.plan import Place, Progress


def head(context: Context, role: Literal["teacher", "student"]) -> Head:
    ranking = context.spec.ranking
    scorer = getattr(ranking, role) if ranking is not None else "cross_encoder"
    return head_for(context.output("prepared"), scorer)


def records(context: Context, split: str) -> list[dict[str, Any]]:
    """Of the training split with what augmentation added, once it has."""
    found: list[dict[str, Any]] = []
    for folder in ("prepared", "augmented"):
        path = context.output(folder) / f"{split}.jsonl"
        if path.is_file():
            with path.open(encoding="utf-8") as f:
                found += [json.loads(line) for line in f]
    return found


def rows(context: Context, split: str, tokenizer_dir: Path, head: Head) -> Rows:
    return encoded(records(context, split), tokenizer_dir, head)


def encoded(found: list[dict[str, Any]], tokenizer_dir: Path, head: Head) -> Rows:
    return head.encode(found, AutoTokenizer.from_pretrained(tokenizer_dir, local_files_only=True))


def place(context: Context, name: str, phase: str, low: float, high: float) -> Place:
    """A run called `name` that fills the stretch from `low` to `high` (0 … 1) of its phase."""
    request = context.request
    device = device_of(request.device)
    curves = Curves(context.workdir / "curves" / f"{name}.jsonl", [Path(p) / "curves" / f"{name}.jsonl" for p in request.previous])

    def on_progress(p: Progress) -> None:
        share = low + (high - low) * p.step / max(1, p.total_steps)
        context.advance(
            phase,
            share,
            stage=name,
            step=p.step,
            total_steps=p.total_steps,
            epoch=p.epoch,
            examples_done=p.examples_done,
            examples_total=p.examples_total,
            examples_per_second=round(p.examples_per_second, 1),
            tokens_per_second=round(p.tokens_per_second, 1),
            eta_seconds=round(p.eta_seconds, 1),
            loss=round(p.loss, 6),
        )

    def on_metrics(step: int, values: dict[str, float]) -> None:
        curves.add(step, values)
        context.emit(protocol.MetricsEvent(stage=name, step=step, values=values))

    return Place(
        folder=context.workdir / "checkpoints" / name,
        earlier=[Path(previous) / "checkpoints" / name for previous in request.previous],
        config_hash=request.config_hash,
        device=device,
        mixed_precision=mixed_precision(context.spec.compute.precision, device),
        stop=context.stop,
        on_progress=on_progress,
        on_metrics=on_metrics,
        on_checkpoint=lambda step, values: context.emit(protocol.CheckpointEvent(stage=name, step=step, metrics=values)),
        every_steps=request.checkpoint_every_steps,
        every_seconds=request.checkpoint_every_seconds,
        micro_batch_divisor=request.micro_batch_divisor,
    )


class Curves:
    """The metrics of one run, a JSON line each, for the report. A resumed run goes on from the steps that its checkpoint knew."""

    def __init__(self, path: Path, earlier: list[Path]) -> None:
        self._path = path
        source = next((p for p in [path, *earlier] if p.is_file()), None)
        self._kept = source.read_text().splitlines() if source is not None else []
        self._began = False

    def add(self, step: int, values: dict[str, float]) -> None:
        if not self._began:
            self._began = True
            self._path.parent.mkdir(parents=True, exist_ok=True)
            earlier = [line for line in self._kept if line.endswith("}") and json.loads(line)["step"] < step]
            self._path.write_text("".join(f"{line}\n" for line in earlier))
        with self._path.open("a") as f:
            f.write(json.dumps({"step": step, **values}, sort_keys=True) + "\n")


def curves(context: Context) -> dict[str, dict[str, Any]]:
    """Every run's curves: {stage: {"steps": […], "values": {name: […]}}}, null where a step did not say."""
    told = {}
    for path in sorted((context.workdir / "curves").glob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        names = sorted({name for line in lines for name in line if name != "step"})
        told[path.stem] = {"steps": [x["step"] for x in lines], "values": {n: [x.get(n) for x in lines] for n in names}}
    return told
