"""Quantization-aware distillation: the student goes on with INT8's arithmetic, taught by its float self and the job's teacher.

    L = response(blend, q_fake)      p_blend = w p_teacher + (1 - w) p_float

Fills qat/, a transformers folder whose float weights become the INT8 graph. Source: arXiv 1802.05668; NVIDIA's QAD.
"""

import json
from typing import Any

import torch
from transformers import PreTrainedModel

from app.domain.schedule import Schedule
from worker import plugins
from worker.heads.base import Head, Outputs
from worker.int8 import fakequant
from worker.objectives.base import Objective
from worker.phases import label, runs
from worker.phases.base import Context
from worker.quantizers.base import Quantizer
from worker.rows import Batch, Rows
from worker.signals import Shape, Signals, Wants
from worker.teachers.base import Scene, Source
from worker.training.determinism import derived, seed_everything
from worker.training.loop import Lessons, fit
from worker.training.plan import Plan

NAME = "quantizing"


class Blend(Source):
    """The float student, averaged with the job's teacher where both answer in the same shape."""

    def __init__(self, teacher_weight: float) -> None:
        super().__init__()
        self.weight = teacher_weight

    def shape(self, scene: Scene) -> Shape | None:
        assert scene.previous is not None
        return scene.head.shape(scene.previous)

    def begin(self, scene: Scene) -> None:
        super().begin(scene)
        assert scene.previous is not None
        self.float: PreTrainedModel = scene.previous.requires_grad_(False)
        self.float.train(False)

    @torch.no_grad()
    def signals(self, batch: Batch, wants: Wants) -> Signals:
        own = self.scene.head.forward(self.float, batch, wants)
        if self.scene.main is None or self.weight == 0:
            return own
        theirs = self.scene.main(batch, Wants(logits=wants.logits, scores=wants.scores))
        w = self.weight
        logits_NC, scores_GK = own.logits_NC, own.scores_GK
        if logits_NC is not None and theirs.logits_NC is not None:
            if batch.problem in ("single_label", "tokens", "masked_lm"):
                logits_NC = (w * theirs.logits_NC.softmax(-1) + (1 - w) * logits_NC.softmax(-1)).clamp_min(1e-30).log()
            else:
                logits_NC = w * theirs.logits_NC + (1 - w) * logits_NC
        if scores_GK is not None and theirs.scores_GK is not None:
            scores_GK = w * theirs.scores_GK + (1 - w) * scores_GK
        return Signals(logits_NC, own.embedding_BE, scores_GK, own.hidden, own.qkv)


# What the student under INT8's arithmetic is held to, by task; the last hidden state everywhere, so that vectors stay too.
_HELD: dict[str, str] = {
    "text-classification": "response",
    "token-classification": "response",
    "masked-lm": "response",
    "embedding": "embedding_cosine",
    "ranking": "listnet",
}


def run(context: Context, quantizer: Quantizer) -> None:
    head, student, params = runs.head(context, "student"), context.output("student"), quantizer.params
    model, twin = head.load(student), head.load(student)
    fakequant.with_fake_quant(model, params)
    kind = _HELD[context.spec.task]
    if context.spec.data.problem == "regression":
        options: dict[str, Any] = {"divergence": "logit_mse"}
    else:
        options = {"temperature": params.temperature} if kind == "response" else {}
    objectives: list[tuple[Objective, Schedule]] = [(plugins.get("objectives", kind)(**options), Schedule(start=1.0))]
    plan = Plan(
        name="qat",
        objectives=objectives,
        epochs=params.epochs,
        learning_rate=params.learning_rate,
        batch_size=params.batch_size,
        seed=derived(context.spec.seed, "qat"),
    )
    seed_everything(plan.seed, context.spec.deterministic)
    rows = {split: runs.rows(context, split, student, head) for split in ("train", "validation")}
    answers = label.answers(context)[0] if params.teacher_weight > 0 else None
    lessons = Lessons(rows["train"], rows["validation"], Blend(params.teacher_weight), main=answers, previous=twin)
    outcome = fit(model, head, plan, lessons, runs.place(context, "qat", NAME, 0.0, 0.45))
    fakequant.remove_fake_quant(model)
    out = context.fresh("qat")
    head.save(model, student, out)
    told = {"steps": outcome.steps, "seconds": outcome.seconds, "final_loss": outcome.final_loss, "validation": outcome.best_score}
    (out / "training.json").write_text(json.dumps(told, sort_keys=True))


def simulated(context: Context, quantizer: Quantizer, head: Head, rows: Rows) -> Outputs:
    """What training believed that INT8 would answer."""
    model = head.load(context.output("qat"))
    fakequant.with_fake_quant(model, quantizer.params)
    return head.predict(model, rows, torch.device("cpu"), 32)
