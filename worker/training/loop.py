"""The training loop: one for teacher, student and baseline. It alone divides, checks, logs, stops, saves.

One optimiser step is a window of `gradient_accumulation` micro-batches. Every objective gives a sum; the loop divides it
by that objective's count over the whole window, once, so the result does not depend on how the window was cut.

    L = Σ_o weight_o(x) · Σ_window sum_o / Σ_window count_o          x = share of the stage's steps done

Whoever teaches, and whatever is compared, comes in as signals (`worker/signals.py`); the task comes in as a head.
"""

import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from worker.heads.base import Head, Outputs
from worker.objectives.base import Objective
from worker.phases.base import StopRequested
from worker.rows import Batch, Rows, collate, mixed, order
from worker.run.faults import Failpoint, hit
from worker.signals import Shape, Signals, Wants
from worker.teachers.base import Scene, Source
from worker.training import checkpoint
from worker.training.attention import plain, plain_is_faster
from worker.training.guards import GUARD_STEPS, Guard, add_gradient, hold_finite
from worker.training.optim import adamw, learning_rate_at
from worker.training.plan import Outcome, Place, Plan, Progress
from worker.training.vocabulary import CompactVocabulary, SameVocabulary


@dataclass(frozen=True)
class Lessons:
    """What a stage is taught with: the rows, who answers for them, and what the teacher said of the validation rows."""

    train: Rows
    validation: Rows
    source: Source | None = None
    main: Callable[[Batch, Wants], Signals] | None = None
    main_shape: Shape | None = None
    previous: PreTrainedModel | None = None
    validation_teacher: Outputs | None = None


def fit(model: PreTrainedModel, head: Head, plan: Plan, lessons: Lessons, place: Place) -> Outcome:
    """Train `model` in place, from the newest checkpoint if there is one; returns when done, raises StopRequested when asked.

    Raises LossDiverged before a step with a loss or gradient that is not finite, SilentObjective when a weighted objective
    moves nothing, ObjectivesOutOfBalance when one drowns another.
    """
    return _Fit(model, head, plan, lessons, place).run()


class _Fit:
    def __init__(self, model: PreTrainedModel, head: Head, plan: Plan, lessons: Lessons, place: Place) -> None:
        self.model, self.head, self.plan, self.place, self.lessons = model, head, plan, place, lessons
        self.train, self.source = lessons.train, lessons.source
        choose_trained(model, plan.train, plan.frozen)
        self.vocabulary = _compact(model, self.train, lessons.validation)
        nn.Module.to(model, place.device)
        self._begin_source()
        self._set_up(place.device)
        self.objectives = plan.named
        projections = {name: o.projections for name, o, _ in self.objectives if any(True for _ in o.projections.parameters())}
        learned = nn.ModuleDict({"student": model, "beside": nn.ModuleDict(projections)})
        self.optimizer = adamw(learned, plan.learning_rate, plan.weight_decay)
        self.trained = [p for p in learned.parameters() if p.requires_grad]
        everything: dict[str, nn.Module] = dict(learned.items())
        if self.source is not None and self.source.learns is not None:
            everything["teacher"] = self.source.learns
        self.everything = nn.ModuleDict(everything)
        others = self.source.optimizer if self.source is not None else None
        self.optimizers = [self.optimizer, *([others] if others is not None else [])]
        divisor = min(place.micro_batch_divisor, plan.batch_size)
        self.micro_size = -(-plan.batch_size // divisor)
        self.per_window = plan.gradient_accumulation * divisor
        batches = len(order(self.train, self.micro_size, plan.seed, 0))
        self.windows_per_epoch = -(-batches // self.per_window)
        self.total = min(plan.epochs * self.windows_per_epoch, plan.max_steps or 2**62)
        self.state = checkpoint.State(config_hash=place.config_hash)
        self.best: dict[str, Tensor] | None = None
        self.guard = Guard(plan.name, plan.balance)
        self.student_wants, self.teacher_wants = _wanted([o for o, _ in plan.objectives])
        self.log_every = max(1, self.total // 5000)
        self.inspect_every = max(25, self.total // 20)  # steps between two looks at every objective's own gradient

    def _begin_source(self) -> None:
        if self.source is None:
            return
        lessons, device = self.lessons, self.place.device
        if lessons.previous is not None:
            nn.Module.to(lessons.previous, device)
        self.scene = Scene(
            student=self.model,
            head=self.head,
            remap=self.vocabulary.remap,
            device=device,
            main=lessons.main,
            main_shape=lessons.main_shape,
            previous=lessons.previous,
            optimizer=lambda module: adamw(module, self.plan.learning_rate, self.plan.weight_decay),
        )
        self.source.begin(self.scene)

    def _set_up(self, device: torch.device) -> None:
        ours = self.head.shape(self.model)
        theirs = self.source.shape(self.scene) if self.source is not None else None
        for objective, _ in self.plan.objectives:
            objective.setup(ours, theirs)
            objective.projections.to(device)

    def run(self) -> Outcome:
        found = checkpoint.newest([self.place.folder, *self.place.earlier], self.place.config_hash)
        if found is not None:
            path, self.state = found
            self.best = checkpoint.restore(path, self.everything, self.optimizers)
            nn.Module.to(self.everything, self.place.device)
        if not self.state.finished:
            with plain(self.model, self._plain_attention()):
                self._epochs()
            if self.best is not None:
                self.model.load_state_dict(self.best)
            self.state.finished = True
            self._save()
        self.vocabulary.restore()
        self.model.train(False)
        plans = {name: plan for name, o, _ in self.objectives if (plan := o.plan())}
        state = self.state
        return Outcome(
            state.step, round(state.seconds, 2), state.last_loss, state.best_score, state.scores, state.metric, dict(plans)
        )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.place.device.type, torch.bfloat16, enabled=self.place.mixed_precision == "bf16")

    def _plain_attention(self) -> bool:
        longest = max((len(row) for row in self.train.tokens), default=0)
        rows = self.micro_size * max((len(example) for example in self.train.examples), default=1)
        return plain_is_faster(self.model, longest, rows, self.place.device, self.place.mixed_precision == "bf16")

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
        batches = self._batches(window)
        x = self.state.step / self.total
        counts = [sum(self._count(o, b) for b in batches) for _, o, _ in self.objectives]
        rate = learning_rate_at(self.state.step, self.total, self.plan.learning_rate, self.plan.warmup_ratio)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        values = {name: 0.0 for name, _, _ in self.objectives}
        norms: dict[str, float] = {}
        for batch in batches:
            for name, part in self._backward(batch, counts, x, values, len(batches)).items():
                norms[name] = max(norms.get(name, 0.0), part)  # one micro-batch may hold no row that an objective speaks of
        loss = sum(w(x) * values[name] for name, _, w in self.objectives)
        limit = self.plan.max_grad_norm if self.plan.max_grad_norm is not None else float("inf")
        norm = float(nn.utils.clip_grad_norm_(self.trained, limit))
        hold_finite(self.plan.name, self.state.step, (loss, norm))
        weights = {name: w(x) for name, _, w in self.objectives}
        self.guard.look(self.state.step, {name: weights[name] * part for name, part in norms.items() if weights[name] > 0})
        self.optimizer.step()
        if self.source is not None:
            self.source.after_step(rate)
        self.state.step += 1
        self.state.window += 1
        self.state.last_loss = loss
        self._tell(loss, norm, norms, rate, x, values, batches)
        self._save_when_due()

    def _batches(self, window: list[list[int]]) -> list[Batch]:
        """The window's micro-batches, each followed by its mixed self where mix-up is asked for; a function of the step alone."""
        found = []
        for n, examples in enumerate(window):
            draw = (self.plan.seed * 1_000_003 + self.state.step * 101 + n) % 2**31
            batch = collate(self.train, examples, draw)
            found.append(batch)
            if self.plan.mixup is not None and len(examples) > 1:
                share = random.Random(draw).betavariate(self.plan.mixup, self.plan.mixup)
                partner_B = torch.randperm(len(batch.index_B), generator=torch.Generator().manual_seed(draw))
                found.append(mixed(batch, max(share, 1 - share), partner_B))
        return found

    @staticmethod
    def _count(objective: Objective, batch: Batch) -> int:
        """Mixed rows have no hidden states that could be compared, and no labels."""
        if batch.mix is not None and ("teacher" not in objective.needs or {"hidden", "qkv", "labels"} & objective.needs):
            return 0
        return objective.count(batch)

    def _backward(self, batch: Batch, counts: list[int], x: float, values: dict[str, float], parts: int) -> dict[str, float]:
        """Add this micro-batch's part of the gradient; returns each objective's gradient norm, at the steps that look at it."""
        looked = self.state.step < GUARD_STEPS or self.state.step % self.inspect_every == 0
        ids_BT = self.vocabulary.remap(batch.input_ids_BT).to(self.place.device)
        batch = batch.to(self.place.device)
        with self._autocast():
            student = self.head.forward(self.model, batch, self._student_wants(batch), ids_BT)
            teacher = self.source.signals(batch, self.teacher_wants) if self.source is not None and self.teacher_wants else None
        total: Tensor | None = None
        norms: dict[str, float] = {}
        for (name, objective, weight), count in zip(self.objectives, counts, strict=True):
            if not count or not self._count(objective, batch):
                continue
            mean = objective(student, teacher, batch, x) / count
            values[name] += float(mean.detach())
            if looked and weight(x) > 0:  # one backward pass for each objective, in place of one for all
                norms[name] = add_gradient(mean, weight(x), self.trained)
            else:
                total = weight(x) * mean if total is None else total + weight(x) * mean
        if total is not None and total.requires_grad:
            torch.autograd.backward(total)
        if self.source is not None:
            self.source.learn(student.detached(), batch, 1 / parts)
        return norms

    def _student_wants(self, batch: Batch) -> Wants:
        if batch.mix is None:
            return self.student_wants
        return Wants(logits=self.student_wants.logits, embedding=self.student_wants.embedding)

    # -- validation, saving, telling ---------------------------------------------------------------------------------

    def _validated(self) -> bool:
        """Score the epoch; True when early stopping says enough."""
        rows, teacher = self.lessons.validation, self.lessons.validation_teacher
        if not len(rows) or (teacher is None and not len(rows.labelled())):
            return False
        remap = self.vocabulary.remap
        with self._autocast():
            outputs = self.head.predict(self.model, rows, self.place.device, remap=remap)
        try:
            quality = self.head.judge(outputs, rows, teacher)
        except ValueError:  # the same answer to every row, say, as in a first epoch: there is no score yet
            return False
        score, loss = round(float(quality.value), 6), float(quality.figures.get("nll", 0.0))
        self.state.scores.append(score)
        self.state.metric = quality.metric
        self.place.on_metrics(self.state.step, {f"validation_{quality.metric}": score, "validation_loss": loss})
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
        checkpoint.save(self.place.folder, self.state, self.everything, self.optimizers, self.best)
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
        self.examples += sum(len(b.examples) for b in batches if b.mix is None)
        elapsed = max(time.monotonic() - self.began, 1e-6)
        if self.state.step % self.log_every == 0:
            logged = {"loss": loss, "grad_norm": norm, "learning_rate": rate, "tokens_per_second": self.tokens / elapsed}
            for name, objective, weight in self.objectives:
                logged[f"{name}/loss"] = values[name]
                logged[f"{name}/weight"] = weight(x)
                logged |= {f"{name}/{parameter}": s(x) for parameter, s in objective.schedules().items()}
            logged |= {f"{name}/grad_norm": value for name, value in norms.items()}
            self.place.on_metrics(self.state.step, logged)
        if elapsed - self.told < 0.5 and self.state.step < self.total:
            return
        self.told = elapsed
        done = self.state.step - self.started_step
        examples = len(self.train.examples)
        self.place.on_progress(
            Progress(
                step=self.state.step,
                total_steps=self.total,
                epoch=round(self.state.epoch + self.state.window / self.windows_per_epoch, 3),
                examples_done=min(self.state.step * self.micro_size * self.per_window, self.plan.epochs * examples),
                examples_total=self.plan.epochs * examples,
                loss=loss,
                tokens_per_second=self.tokens / elapsed,
                examples_per_second=self.examples / elapsed,
                eta_seconds=elapsed / done * (self.total - self.state.step),
            )
        )


_HEAD = ("classifier", "pooler", "pre_classifier", "lm_head", "predictions", "vocab_", "cls.")


def choose_trained(model: PreTrainedModel, train: str | Sequence[str], frozen: Sequence[str] = ()) -> None:
    """Say which parameters move. A model with an adapter never moves its base weights under `all` or `adapter`."""
    adapted = any("lora_" in name for name, _ in model.named_parameters())
    for name, parameter in model.named_parameters():
        if not isinstance(train, str):
            moves = any(re.search(pattern, name) for pattern in train)
        elif train == "head":
            moves = any(part in name for part in _HEAD)
        elif train == "adapter" or adapted:
            moves = "lora_" in name or any(part in name for part in _HEAD)
        else:
            moves = True
        parameter.requires_grad_(moves and not any(re.search(pattern, name) for pattern in frozen))


def _compact(model: PreTrainedModel, train: Rows, validation: Rows) -> CompactVocabulary | SameVocabulary:
    """A table of the tokens in use; the whole one where every row of it has a gradient, as under a masked language model."""
    if train.masking is not None:
        return SameVocabulary()
    return CompactVocabulary(model, train.used_tokens() | validation.used_tokens() | {train.pad_id})


def _wanted(objectives: Sequence[Objective]) -> tuple[Wants, Wants]:
    ours, theirs = Wants(), Wants()
    for objective in objectives:
        ours, theirs = ours | objective.student_wants(), theirs | objective.teacher_wants()
    return ours, theirs
