"""The training loop: one for teacher, student and baseline. It alone divides, checks, logs, stops, saves.

One optimiser step is a window of `gradient_accumulation` micro-batches. Every objective gives a sum; the loop divides it
by that objective's count over the whole window, once, so the result does not depend on how the window was cut.

    L = Σ_o weight_o(x) · Σ_window sum_o / Σ_window count_o          x = share of the stage's steps done

Shapes: B rows, C classes, N rows of the split.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from app.domain.errors import LossDiverged, SilentObjective
from app.domain.schedule import Schedule
from worker.objectives.base import DenseLogits, Objective, StudentOutput
from worker.phases.base import StopRequested
from worker.predict import predict
from worker.rows import Batch, Rows, collate, order
from worker.run.faults import Failpoint, hit
from worker.training import checkpoint
from worker.training.optim import adamw, learning_rate_at
from worker.training.vocabulary import CompactVocabulary

GUARD_STEPS = 3  # a weighted objective without gradient for so many steps is a mistake, not a coincidence


@dataclass(frozen=True)
class Plan:
    """What one run does; plain values from the spec."""

    name: str
    objectives: Sequence[tuple[Objective, Schedule]]
    epochs: int
    learning_rate: float
    batch_size: int
    seed: int
    gradient_accumulation: int = 1
    weight_decay: float = 0.01
    warmup_ratio: float = 0.06
    max_grad_norm: float | None = 1.0
    max_steps: int | None = None
    patience: int | None = None
    train: str = "all"


@dataclass(frozen=True)
class Place:
    """Where a run keeps its checkpoints and how it speaks to the outside."""

    folder: Path
    earlier: Sequence[Path]
    config_hash: str
    device: torch.device
    mixed_precision: str
    stop: Callable[[], None]
    on_progress: Callable[["Progress"], None]
    on_metrics: Callable[[int, dict[str, float]], None]
    on_checkpoint: Callable[[int, dict[str, float]], None]
    every_steps: int | None = None
    every_seconds: float = 300.0
    micro_batch_divisor: int = 1


@dataclass(frozen=True)
class Progress:
    step: int
    total_steps: int
    epoch: float
    examples_done: int
    examples_total: int
    loss: float
    tokens_per_second: float
    examples_per_second: float
    eta_seconds: float


@dataclass
class Outcome:
    steps: int
    seconds: float
    final_loss: float | None
    best_score: float | None
    scores: list[float] = field(default_factory=list)


def fit(model: PreTrainedModel, plan: Plan, train: Rows, validation: Rows, teacher_NC: Tensor | None, place: Place) -> Outcome:
    """Train `model` in place, from the newest checkpoint if there is one; returns when done, raises StopRequested when asked.

    `teacher_NC` are the teacher's logits for the rows of `train`, in their order. Raises LossDiverged before a step with
    a loss or gradient that is not finite, SilentObjective when a weighted objective moves nothing.
    """
    return _Fit(model, plan, train, validation, teacher_NC, place).run()


class _Fit:
    def __init__(
        self, model: PreTrainedModel, plan: Plan, train: Rows, validation: Rows, teacher_NC: Tensor | None, place: Place
    ) -> None:
        self.model, self.plan, self.place = model, plan, place
        self.train, self.validation, self.teacher_NC = train, validation, teacher_NC
        _choose_trained(model, plan.train)
        self.vocabulary = CompactVocabulary(model, train.used_tokens() | validation.used_tokens() | {train.pad_id})
        self.accelerator = Accelerator(cpu=place.device.type == "cpu", mixed_precision=place.mixed_precision)
        nn.Module.to(model, place.device)
        self.optimizer = adamw(model, plan.learning_rate, plan.weight_decay)
        divisor = min(place.micro_batch_divisor, plan.batch_size)
        self.micro_size = -(-plan.batch_size // divisor)
        self.per_window = plan.gradient_accumulation * divisor
        batches = len(order(train, self.micro_size, plan.seed, 0))
        self.windows_per_epoch = -(-batches // self.per_window)
        self.total = min(plan.epochs * self.windows_per_epoch, plan.max_steps or 2**62)
        self.state = checkpoint.State(config_hash=place.config_hash)
        self.best: dict[str, Tensor] | None = None
        self.silent: dict[str, int] = {}
        self.loss_ema: float | None = None
        self.log_every = max(1, self.total // 5000)

    def run(self) -> Outcome:
        found = checkpoint.newest([self.place.folder, *self.place.earlier], self.place.config_hash)
        if found is not None:
            path, self.state = found
            self.best = checkpoint.restore(path, self.model, self.optimizer)
            nn.Module.to(self.model, self.place.device)
        if not self.state.finished:
            self._epochs()
            if self.best is not None:
                self.model.load_state_dict(self.best)
            self.state.finished = True
            self._save()
        self.vocabulary.restore()
        self.model.train(False)
        return Outcome(
            self.state.step, round(self.state.seconds, 2), self.state.last_loss, self.state.best_score, self.state.scores
        )

    # -- epochs and windows ------------------------------------------------------------------------------------------

    def _epochs(self) -> None:
        began, self.saved_at, self.started_step = time.monotonic(), time.monotonic(), self.state.step
        self.began, self.seconds_before, self.tokens, self.examples, self.told = began, self.state.seconds, 0, 0, 0.0
        while self.state.epoch < self.plan.epochs and self.state.step < self.total:
            self.model.train()
            batches = order(self.train, self.micro_size, self.plan.seed, self.state.epoch)
            windows = [batches[i : i + self.per_window] for i in range(0, len(batches), self.per_window)]
            while self.state.window < len(windows) and self.state.step < self.total:
                self._heed_stop()
                self._step(windows[self.state.window])
                hit(Failpoint.TRAIN_STEP)
            self.state.epoch, self.state.window = self.state.epoch + 1, 0
            if self._validated():
                break
        self.state.seconds = self.seconds_before + time.monotonic() - began

    def _step(self, window: list[list[int]]) -> None:
        """One optimiser step: all micro-batches forward and backward, then check, clip, move."""
        batches = [collate(self.train, positions, self.vocabulary.remap) for positions in window]
        x = self.state.step / self.total
        counts = [sum(o.count(b.labels_B) for b in batches) for o, _ in self.plan.objectives]
        rate = learning_rate_at(self.state.step, self.total, self.plan.learning_rate, self.plan.warmup_ratio)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        values = {o.name: 0.0 for o, _ in self.plan.objectives}
        norms: dict[str, float] = {}
        for batch in batches:
            for name, part in self._backward(batch, counts, x, values).items():
                norms[name] = max(norms.get(name, 0.0), part)  # one micro-batch may hold no row that an objective speaks of
        loss = sum(w(x) * values[o.name] for o, w in self.plan.objectives)
        limit = self.plan.max_grad_norm if self.plan.max_grad_norm is not None else float("inf")
        trained = [p for p in self.model.parameters() if p.requires_grad]
        norm = float(self.accelerator.clip_grad_norm_(trained, limit))
        if not (_finite(loss) and _finite(norm)):
            raise LossDiverged(
                f"Stage '{self.plan.name}', step {self.state.step}: loss {loss:g}, gradient norm {norm:g}; no update was made.",
                param="stages",
                hint="Lower the learning rate, raise warmup_ratio, or look for rows that are not text.",
            )
        self._guard(norms, counts, x)
        self.optimizer.step()
        self.state.step += 1
        self.state.window += 1
        self.state.last_loss = loss
        self._tell(loss, norm, norms, rate, x, values, batches)
        self._save_when_due()

    def _backward(self, batch: Batch, counts: list[int], x: float, values: dict[str, float]) -> dict[str, float]:
        """Add this micro-batch's part of the gradient; returns each objective's gradient norm at the logits."""
        device = self.place.device
        with self.accelerator.autocast():
            output = self.model(input_ids=batch.input_ids_BT.to(device), attention_mask=batch.attention_mask_BT.to(device))
        student = StudentOutput(logits_BC=output.logits)
        teacher = None if self.teacher_NC is None else DenseLogits(self.teacher_NC[batch.index_B].to(device))
        labels_B = batch.labels_B.to(device)
        total = output.logits.new_zeros((), dtype=torch.float32)
        norms: dict[str, float] = {}
        for (objective, weight), count in zip(self.plan.objectives, counts, strict=True):
            if not count:
                continue
            mean = objective(student, teacher, labels_B, x) / count
            values[objective.name] += float(mean.detach())
            if self.state.step < GUARD_STEPS or self.state.step % 10 == 0:
                grad = torch.autograd.grad(mean, output.logits, retain_graph=True)[0]
                norms[objective.name] = float(grad.norm())
            total = total + weight(x) * mean
        if total.requires_grad:
            self.accelerator.backward(total)
        return norms

    def _guard(self, norms: dict[str, float], counts: list[int], x: float) -> None:
        for (objective, weight), count in zip(self.plan.objectives, counts, strict=True):
            if self.state.step >= GUARD_STEPS or not count or weight(x) == 0 or norms.get(objective.name, 1.0) > 0:
                continue
            self.silent[objective.name] = self.silent.get(objective.name, 0) + 1
            if self.silent[objective.name] == GUARD_STEPS:
                raise SilentObjective(
                    f"Stage '{self.plan.name}': objective '{objective.name}' has weight {weight(x):g} but no gradient.",
                    param="stages",
                    hint="Does the teacher equal the student, or is every label the same? Remove the objective or mend the data.",
                )

    # -- validation, saving, telling ---------------------------------------------------------------------------------

    def _validated(self) -> bool:
        """Score the epoch; True when early stopping says enough."""
        labelled = self.validation.labelled()
        if not len(labelled):
            return False
        logits_NC = predict(self.model, labelled, self.place.device, self.vocabulary.remap)
        labels_N = torch.tensor(labelled.labels)
        score = round(float((logits_NC.argmax(-1) == labels_N).float().mean()), 6)
        loss = float(nn.functional.cross_entropy(logits_NC, labels_N))
        self.state.scores.append(score)
        self.place.on_metrics(self.state.step, {"validation_accuracy": score, "validation_loss": loss})
        if self.plan.patience is None:
            self.state.best_score = score
            return False
        known, lowest = self.state.best_score, self.state.best_loss
        if known is None or lowest is None or (score, -loss) > (known, -lowest):
            self.state.best_score, self.state.best_loss, self.state.stale_epochs = score, loss, 0
            self.best = checkpoint.snapshot(self.model)
        else:
            self.state.stale_epochs += 1
        return self.state.stale_epochs >= self.plan.patience

    def _heed_stop(self) -> None:
        try:
            self.place.stop()
        except StopRequested as request:
            if request.checkpoint:
                self._save()
            raise

    def _save_when_due(self) -> None:
        by_steps = self.place.every_steps and self.state.step % self.place.every_steps == 0
        if by_steps or time.monotonic() - self.saved_at >= self.place.every_seconds:
            self._save()

    def _save(self) -> None:
        checkpoint.save(self.place.folder, self.state, self.model, self.optimizer, self.best)
        self.saved_at = time.monotonic()
        self.place.on_checkpoint(self.state.step, {} if self.state.last_loss is None else {"loss": self.state.last_loss})

    def _tell(
        self,
        loss: float,
        norm: float,
        norms: dict[str, float],
        rate: float,
        x: float,
        values: dict[str, float],
        batches: list[Batch],
    ) -> None:
        self.tokens += sum(b.tokens for b in batches)
        self.examples += sum(len(b.labels_B) for b in batches)
        elapsed = max(time.monotonic() - self.began, 1e-6)
        if self.state.step % self.log_every == 0:
            logged = {"loss": loss, "grad_norm": norm, "learning_rate": rate, "tokens_per_second": self.tokens / elapsed}
            for objective, weight in self.plan.objectives:
                logged[f"{objective.name}/loss"] = values[objective.name]
                logged[f"{objective.name}/weight"] = weight(x)
                logged |= {f"{objective.name}/{name}": s(x) for name, s in objective.schedules().items()}
            logged |= {f"{name}/grad_norm": value for name, value in norms.items()}
            self.place.on_metrics(self.state.step, logged)
        if elapsed - self.told < 0.5 and self.state.step < self.total:
            return
        self.told = elapsed
        done = self.state.step - self.started_step
        self.place.on_progress(
            Progress(
                step=self.state.step,
                total_steps=self.total,
                epoch=round(self.state.epoch + self.state.window / self.windows_per_epoch, 3),
                examples_done=min(self.state.step * self.micro_size * self.per_window, self.plan.epochs * len(self.train)),
                examples_total=self.plan.epochs * len(self.train),
                loss=loss,
                tokens_per_second=self.tokens / elapsed,
                examples_per_second=self.examples / elapsed,
                eta_seconds=elapsed / done * (self.total - self.state.step),
            )
        )


def _choose_trained(model: PreTrainedModel, train: str) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(train == "all" or "classifier" in name or "pooler" in name)


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")
