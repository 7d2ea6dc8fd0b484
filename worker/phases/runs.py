"""What the label and train phases share: prepared rows as tokens, and a place for a run's checkpoints and events."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from worker.phases.base import Context
from worker.rows import Rows, tokenize
from worker.run import protocol
from worker.training.loop import Place, Progress
from worker.training.precision import device_of, mixed_precision


def labels_of(context: Context) -> list[str]:
    return list(json.loads((context.output("prepared") / "data.json").read_text())["labels"])


def records(context: Context, split: str) -> list[dict[str, Any]]:
    with (context.output("prepared") / f"{split}.jsonl").open(encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def rows(context: Context, split: str, tokenizer_dir: Path) -> Rows:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir, local_files_only=True)
    return tokenize(records(context, split), tokenizer, context.spec.data.max_length)


def place(context: Context, name: str, phase: str, low: float, high: float) -> Place:
    """A run called `name` that fills the stretch from `low` to `high` (0 … 1) of its phase."""
    request = context.request
    device = device_of(request.device)

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

    return Place(
        folder=context.workdir / "checkpoints" / name,
        earlier=[Path(previous) / "checkpoints" / name for previous in request.previous],
        config_hash=request.config_hash,
        device=device,
        mixed_precision=mixed_precision(context.spec.compute.precision, device),
        stop=context.stop,
        on_progress=on_progress,
        on_metrics=lambda step, values: context.emit(protocol.MetricsEvent(stage=name, step=step, values=values)),
        on_checkpoint=lambda step, values: context.emit(protocol.CheckpointEvent(stage=name, step=step, metrics=values)),
        every_steps=request.checkpoint_every_steps,
        every_seconds=request.checkpoint_every_seconds,
        micro_batch_divisor=request.micro_batch_divisor,
    )
