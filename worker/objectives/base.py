"""What an objective is: a loss over student and teacher signals that returns a sum, says its count, and never divides.

Shapes: see `worker/signals.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from app.domain.errors import IncompatibleModels
from app.domain.layer_maps import Compares, LayerMap, Projects, Rule, of_pair
from app.domain.schedule import Schedule, Scheduled, in_range
from worker.alignment import Layers, Projections
from worker.plugins import PluginParams
from worker.rows import Batch
from worker.signals import Need, Shape, Signals, Wants

# A softmax temperature, dimensionless; a number or a schedule.
Temperature = Annotated[
    Scheduled, AfterValidator(lambda s: in_range(s, 0.01, 100, "temperature")), Field(json_schema_extra={"x-range": [0.01, 100.0]})
]


class Objective(ABC):
    """Subclasses give `name`, `needs`, `Params` and `__call__`; the loop multiplies by the weight and divides by the count.

    `problems` names the kinds of targets it can speak about; empty: all. `equal` names measures of `Shape` that student and
    teacher must share ("heads"): the API refuses others before the job starts. `compares` says that layers are paired, by the
    parameter `layers` ("map") or the last of both ("last"), `projects` what is mapped to the teacher's width: the API tells
    pairs and projections by them before the job runs. What `setup` finds out beyond that is told by `plan`.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    problems: ClassVar[frozenset[str]] = frozenset()
    equal: ClassVar[frozenset[str]] = frozenset()
    compares: ClassVar[Compares | None] = None
    projects: ClassVar[Projects | None] = None  # a linear map D → E where the widths differ: per pair, or of the pooled vector

    # Facts that the generated tests hold an objective to; an instance may set its own, by its parameters.
    batchwise: bool = False  # relates the rows of one micro-batch: sums of parts are not the sum of the whole
    matching: bool = True  # smallest where the student says what its teacher says; False: it asks for an order, or for contrast
    detaches: bool = False  # takes weights or targets from the student itself, and holds them constant in the gradient

    class Params(PluginParams):
        pass

    def __init__(self, **params: Any) -> None:
        self.params: Any = self.Params.model_validate(params)
        self.pairs: LayerMap = []
        self.projections = Projections()

    def setup(self, student: Shape, teacher: Shape | None) -> None:
        """Once before training, torch is seeded: resolve the layer map, make projections, which are trained beside the student.

        Raises InvalidRequest where the two cannot be compared.
        """
        if teacher is None:
            return
        rule = Rule.of(self.compares, self.projects, self.needs)
        self.pairs = rule.pairs(dict(self.params), student, teacher)
        for name, (ours, theirs) in rule.projections(self.pairs, student, teacher).items():
            self.projections.add(name, ours, theirs)

    def plan(self) -> dict[str, Any]:
        """What `setup` resolved, for the report: layer map, projections."""
        told: dict[str, Any] = {"layers": self.pairs} if self.compares else {}
        return told | ({"projections": self.projections.shapes()} if self.projects else {})

    def student_wants(self) -> Wants:
        return self._wants(frozenset(ours for ours, _ in self.pairs))

    def teacher_wants(self) -> Wants:
        return self._wants(frozenset(theirs for _, theirs in self.pairs)) if "teacher" in self.needs else Wants()

    def schedules(self) -> dict[str, Schedule]:
        """Scheduled parameters, logged every step under their names."""
        return {name: value for name, value in self.params if isinstance(value, Schedule)}

    def count(self, batch: Batch) -> int:
        """How many rows (positions, groups, pairs) it speaks about: the divisor, known before the forward pass."""
        return batch.labelled if "labels" in self.needs else batch.count

    @abstractmethod
    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        """Sum of the loss over what is counted, float32 scalar; `x` in [0, 1] is the share of the stage done."""

    def _wants(self, layers: frozenset[int]) -> Wants:
        needs = self.needs
        return Wants(
            logits="logits" in needs,
            embedding="embedding" in needs,
            scores="scores" in needs,
            hidden=layers if "hidden" in needs else frozenset(),
            qkv=layers if "qkv" in needs else frozenset(),
        )


class LayerObjective(Objective):
    """One that compares layers: hidden states, or queries, keys and values, of the pairs that a layer map names."""

    compares: ClassVar[Compares | None] = "map"
    projects: ClassVar[Projects | None] = "hidden"

    class Params(PluginParams):
        layers: Layers = Field(
            default="uniform",
            description="Which layers are compared: a strategy, or pairs [student layer, teacher layer] counted from 1.",
        )

    def states(self, student: Signals, teacher: Signals | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Hidden states (B, T, D) of every pair, the student's projected to the teacher's width."""
        assert teacher is not None
        for i, j in self.pairs:
            same_rows(student.hidden[i], teacher.hidden[j])
            yield wide(self.projections.map(of_pair((i, j)), student.hidden[i])), wide(teacher.hidden[j].detach())


def both(
    student: Signals, teacher: Signals | None, name: Literal["logits_NC", "embedding_BE", "scores_GK"]
) -> tuple[Tensor, Tensor]:
    """What both say, in float32; the teacher's without gradient. Raises IncompatibleModels when they speak of different things."""
    ours, theirs = getattr(student, name), getattr(teacher, name)
    if name == "embedding_BE":
        same_rows(ours[:, None], theirs[:, None])
    elif ours.shape != theirs.shape:
        raise IncompatibleModels(
            f"The student answers {tuple(ours.shape)}, the teacher {tuple(theirs.shape)}: not the same rows and classes.",
            param="teacher",
            hint="Teacher and student must know the same classes; for ranking compare their scores, as listnet does.",
        )
    return wide(ours), wide(theirs.detach())


def same_rows(ours_BTD: Tensor, theirs_BTD: Tensor) -> None:
    """Raises IncompatibleModels unless both have read the same sequences and tokens."""
    if ours_BTD.shape[:2] != theirs_BTD.shape[:2]:
        raise IncompatibleModels(
            f"The student reads {tuple(ours_BTD.shape[:2])} sequences and tokens, the teacher {tuple(theirs_BTD.shape[:2])}.",
            param="teacher",
            hint="States are compared token by token: both need one tokenizer and the same texts. Or compare logits or scores.",
        )


def members(scores_GK: Tensor, batch: Batch) -> Tensor:
    """bool (G, K): where there is a document. The group of a bi-encoder begins with the query itself, which has no score."""
    inside = batch.members_GK
    return inside[:, inside.shape[1] - scores_GK.shape[1] :]


def wide(value: Tensor) -> Tensor:
    """float32 at least: sums and exponentials are never taken in half precision."""
    return value if value.dtype == torch.float64 else value.float()


def distributions(logits_NC: Tensor, problem: str) -> Tensor:
    """Logits of probability distributions: (N, C) as they are, or for multi-label the two-way (N·C, 2) of every label.

    softmax([z, 0]) = [sigmoid(z), 1 − sigmoid(z)], so every divergence of softmaxes is one of independent labels too.
    """
    if problem != "multi_label":
        return logits_NC
    flat = logits_NC.reshape(-1, 1)
    return torch.cat([flat, torch.zeros_like(flat)], dim=1)


def log_softmax(logits_NC: Tensor, temperature: float | Tensor) -> Tensor:
    """log softmax(z / tau) in float32; infinite logits are clamped, so no NaN appears. tau: a number, or (N, 1)."""
    limit = 1e30  # so large that only infinities meet it, so small that dividing by a low temperature stays finite
    return torch.log_softmax(torch.clamp(wide(logits_NC), -limit, limit) / temperature, dim=-1)
