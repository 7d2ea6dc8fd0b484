"""Signals made for tests: what a student and a teacher might say of one small micro-batch, for every kind of target.

Numbers are float64 that float32 can hold, so that what is measured is an objective's arithmetic and not the rounding of its input.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from app.domain.errors import InvalidRequest
from worker import plugins
from worker.objectives.base import Objective
from worker.rows import NO_LABEL, Batch
from worker.signals import Shape, Signals, Wants

CLASSES, TOKENS = 5, 4
OFFERS: dict[str, set[str]] = {
    "single_label": {"logits", "embedding", "hidden", "qkv", "labels", "teacher"},
    "multi_label": {"logits", "embedding", "hidden", "qkv", "labels", "teacher"},
    "regression": {"logits", "embedding", "hidden", "qkv", "labels", "teacher"},
    "tokens": {"logits", "hidden", "qkv", "labels", "teacher"},
    "masked_lm": {"logits", "hidden", "qkv", "labels", "teacher"},
    "embedding": {"embedding", "hidden", "qkv", "labels", "teacher"},
    "ranking": {"scores", "embedding", "hidden", "qkv", "labels", "teacher"},
}
LENGTHS = {"ranking": (4, 2, 3, 4, 1, 2), "embedding": (4, 2, 3, 1, 2, 4, 3)}
SIZES = {"ranking": (3, 1, 2), "embedding": (2, 1, 2, 2)}
STUDENT = Shape(layers=2, hidden=6, heads=2, embedding=6, classes=CLASSES, influence=(0.2, 0.1))
TEACHER = Shape(layers=4, hidden=6, heads=2, embedding=6, classes=CLASSES, influence=(0.1, 0.4, 0.2, 0.3))
WIDE = replace(TEACHER, hidden=8, embedding=8)


def random(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * scale).float().double()


def batch_of(problem: str) -> Batch:
    """With padding, rows without a label, a query with one document, a text without a pair."""
    lengths = torch.tensor(LENGTHS.get(problem, (4, 2, 3, 1)))
    mask_BT = torch.arange(TOKENS)[None, :] < lengths[:, None]
    positions_BT = None
    nan = float("nan")
    if problem in ("tokens", "masked_lm"):
        positions_BT = mask_BT & (torch.arange(TOKENS)[None, :] != 1)
    labels = {
        "single_label": torch.tensor([2, NO_LABEL, 0, 4]),
        "multi_label": torch.tensor([[1.0, 0, 0, 1, 1], [nan] * 5, [0.0, nan, 1, 0, 0], [0.0] * 5]),
        "regression": torch.tensor([0.5, nan, -1.25, 3.0]),
        "tokens": torch.tensor([1, NO_LABEL, 4, 0, 2, NO_LABEL, 3]),
        "masked_lm": torch.tensor([1, 0, 4, 0, 2, 3, 3]),
        "embedding": torch.tensor([0.9, nan, -0.25, nan]),
        "ranking": torch.tensor([[2.0, 0.0, 1.0], [1.0, nan, nan], [nan, nan, nan]]),
    }[problem]
    return Batch(
        torch.arange(len(lengths)),
        torch.zeros_like(mask_BT, dtype=torch.long),
        mask_BT.long(),
        labels,
        problem,
        positions_BT=positions_BT,
        sizes=SIZES.get(problem, (1,) * len(lengths)),
    )


def signals_of(batch: Batch, shape: Shape, wants: Wants, seed: int, scale: float = 1.0) -> Signals:
    """Only what is wanted."""
    b = len(batch.index_B)
    rows = {"tokens": len(batch.labels), "masked_lm": len(batch.labels)}.get(batch.problem, b)
    classes = 1 if batch.problem == "regression" else CLASSES
    size = shape.hidden // shape.heads
    scores_GK = None
    if wants.scores:
        inside_GK = batch.members_GK
        scores_GK = random(*inside_GK.shape, seed=seed + 3, scale=scale).masked_fill(~inside_GK, 0.0)
    return Signals(
        logits_NC=random(rows, classes, seed=seed + 1, scale=scale) if wants.logits else None,
        embedding_BE=random(b, shape.embedding, seed=seed + 2, scale=scale) if wants.embedding else None,
        scores_GK=scores_GK,
        hidden={i: random(b, TOKENS, shape.hidden, seed=seed + 10 + i, scale=scale) for i in sorted(wants.hidden)},
        qkv={
            i: tuple(random(b, shape.heads, TOKENS, size, seed=seed + 100 * n + i, scale=scale) for n in (1, 2, 3))  # type: ignore[misc]
            for i in sorted(wants.qkv)
        },
    )


def mapped(signals: Signals, change: Callable[[Tensor], Tensor]) -> Signals:
    def maybe(value: Tensor | None) -> Tensor | None:
        return None if value is None else change(value)

    return Signals(
        maybe(signals.logits_NC),
        maybe(signals.embedding_BE),
        maybe(signals.scores_GK),
        {i: change(h) for i, h in signals.hidden.items()},
        {i: (change(q), change(k), change(v)) for i, (q, k, v) in signals.qkv.items()},
    )


def part(batch: Batch, signals: Signals, examples: Sequence[int]) -> tuple[Batch, Signals]:
    """Some examples of the micro-batch, as if the others had never been there (padding of sequences stays)."""
    ends = torch.tensor(batch.sizes).cumsum(0)
    rows = [i for e in examples for i in range(int(ends[e]) - batch.sizes[e], int(ends[e]))]
    where = list(examples)
    if batch.positions_BT is not None:
        ends = batch.positions_BT.sum(1).cumsum(0)
        where = [i for b in rows for i in range(int(ends[b] - batch.positions_BT[b].sum()), int(ends[b]))]
    longest = max(batch.sizes[e] for e in examples)
    labels = batch.labels[where]
    smaller = replace(
        batch,
        index_B=batch.index_B[rows],
        input_ids_BT=batch.input_ids_BT[rows],
        attention_mask_BT=batch.attention_mask_BT[rows],
        positions_BT=None if batch.positions_BT is None else batch.positions_BT[rows],
        labels=labels[:, :longest] if batch.problem == "ranking" else labels,
        sizes=tuple(batch.sizes[e] for e in examples),
    )
    return smaller, Signals(
        None if signals.logits_NC is None else signals.logits_NC[where],
        None if signals.embedding_BE is None else signals.embedding_BE[rows],
        None if signals.scores_GK is None else signals.scores_GK[where][:, :longest],
        {i: h[rows] for i, h in signals.hidden.items()},
        {i: (q[rows], k[rows], v[rows]) for i, (q, k, v) in signals.qkv.items()},
    )


def made(name: str, params: dict[str, Any], student: Shape = STUDENT, teacher: Shape = TEACHER) -> Objective:
    """The objective, set up for these two shapes, in float64."""
    objective: Objective = plugins.get("objectives", name)(**params)
    torch.manual_seed(0)
    objective.setup(student, teacher if "teacher" in objective.needs else None)
    objective.projections.double()
    return objective


def in_float32(objective: Objective) -> Objective:
    twin = copy.deepcopy(objective)
    twin.projections.float()
    return twin


def value_and_gradients(
    objective: Objective, student: Signals, teacher: Signals | None, batch: Batch, x: float = 0.3
) -> tuple[Tensor, list[Tensor]]:
    """The sum, and its gradients at all student signals and at the projections."""
    leaves = mapped(student, lambda t: t.clone().requires_grad_())
    value = objective(leaves, teacher, batch, x)
    wanted = [*leaves.tensors(), *objective.projections.parameters()]
    if not value.requires_grad:
        return value, [torch.zeros_like(w) for w in wanted]
    found = torch.autograd.grad(value, wanted, allow_unused=True)
    return value.detach(), [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found, strict=True)]


def norm(gradients: Sequence[Tensor]) -> float:
    return float(torch.cat([g.double().flatten() for g in gradients]).norm()) if gradients else 0.0


@lru_cache
def catalogue() -> dict[str, Any]:
    return plugins.discover("objectives")


def variants(name: str) -> list[dict[str, Any]]:
    """The defaults, and every choice and switch of the parameters one at a time, as their own schema lists them."""
    found: list[dict[str, Any]] = [{}]
    for param, described in catalogue()[name].Params.model_json_schema().get("properties", {}).items():
        kinds = [described, *described.get("anyOf", [])]
        choices = [v for kind in kinds for v in [*kind.get("enum", []), *([kind["const"]] if "const" in kind else [])]]
        if described.get("type") == "boolean":
            choices = [True, False]
        if any(kind.get("$ref") == "#/$defs/Schedule" for kind in kinds):
            choices = [3.0, {"schedule": "cosine", "start": 8, "end": 0.5}]
        found += [{param: choice} for choice in choices if choice != described.get("default")]
    return found


def cases() -> list[tuple[str, dict[str, Any], str]]:
    """(objective, parameters, kind of target) for all that go together. Where no target is read, two kinds are enough."""
    found = []
    for name, cls in catalogue().items():
        problems = [p for p, offered in OFFERS.items() if p in (cls.problems or OFFERS) and cls.needs <= offered]
        if not {"logits", "scores", "labels"} & cls.needs:
            problems = [problems[0], problems[-1]]
        found += [(name, params, p) for params in variants(name) for p in problems if _possible(name, params, p)]
    return found


def _possible(name: str, params: dict[str, Any], problem: str) -> bool:
    """False where it says InvalidRequest of one of its own parameters; any other refusal is a mistake, and shows in the tests."""
    objective, batch = made(name, params), batch_of(problem)
    student, teacher = both_signals(objective, batch)
    try:
        objective(student, teacher, batch, 0.0)
    except InvalidRequest as error:
        return error.param not in type(objective.params).model_fields
    return True


def both_signals(
    objective: Objective, batch: Batch, seed: int = 0, scale: float = 1.0, student: Shape = STUDENT, teacher: Shape = TEACHER
) -> tuple[Signals, Signals | None]:
    ours = signals_of(batch, student, objective.student_wants(), seed, scale)
    if "teacher" not in objective.needs:
        return ours, None
    return ours, signals_of(batch, teacher, objective.teacher_wants(), seed + 5000, scale)
