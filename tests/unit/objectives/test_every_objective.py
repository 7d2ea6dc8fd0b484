"""Every registered objective against float64, and what all of them promise: nothing here names one that has to be added by hand."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from app.domain.errors import IncompatibleModels, InvalidRequest
from tests.unit.objectives.made import (
    OFFERS,
    STUDENT,
    TEACHER,
    TOKENS,
    WIDE,
    batch_of,
    both_signals,
    cases,
    catalogue,
    in_float32,
    made,
    mapped,
    norm,
    part,
    random,
    signals_of,
    value_and_gradients,
)
from worker.objectives.base import Objective
from worker.rows import NO_LABEL, Batch
from worker.signals import Signals

CASES = cases()
every_objective = pytest.mark.parametrize("name", sorted(catalogue()))


def where(holds: Callable[[Objective], Any]) -> pytest.MarkDecorator:
    """Every case whose objective, with its parameters, is of that kind."""
    chosen = [(n, p, k) for n, p, k in CASES if holds(made(n, p))]
    return pytest.mark.parametrize(("name", "params", "problem"), chosen, ids=[f"{n}-{p}-{k}" for n, p, k in chosen])


every_case = where(lambda objective: True)


def test_every_objective_is_covered() -> None:
    assert {name for name, _, _ in CASES} == set(catalogue())
    assert len(catalogue()) >= 25


@every_case
def test_value_and_gradient_agree_with_float64(name: str, params: dict[str, Any], problem: str) -> None:
    batch = batch_of(problem)
    for seed, (scale, teacher_shape) in enumerate(((1.0, TEACHER), (4.0, WIDE), (15.0, TEACHER))):
        objective = made(name, params, teacher=teacher_shape)
        student, teacher = both_signals(objective, batch, seed, scale, teacher=teacher_shape)
        exact, exact_gradients = value_and_gradients(objective, student, teacher, batch, 0.1 * seed)
        narrow = None if teacher is None else mapped(teacher, Tensor.float)
        value, gradients = value_and_gradients(in_float32(objective), mapped(student, Tensor.float), narrow, batch, 0.1 * seed)
        assert value.dtype == torch.float32
        assert value.shape == ()
        assert float((value - exact).abs()) <= 1e-5 * max(float(exact.abs()), 1e-3)
        off = norm([a.double() - b for a, b in zip(gradients, exact_gradients, strict=True)])
        assert off <= 1e-5 * max(norm(exact_gradients), 1e-3)
        assert norm(exact_gradients) > 0


@where(lambda objective: not objective.detaches)
def test_gradient_is_the_slope_of_the_value(name: str, params: dict[str, Any], problem: str) -> None:
    objective, batch = made(name, params, teacher=WIDE), batch_of(problem)
    student, teacher = both_signals(objective, batch, 7, teacher=WIDE)

    def value(*tensors: Tensor) -> Tensor:
        rest = iter(tensors)
        return objective(mapped(student, lambda _: next(rest)), teacher, batch, 0.4)

    leaves: list[Tensor] = []
    mapped(student, lambda t: leaves.append(t.clone().requires_grad_()) or t)  # type: ignore[func-returns-value]
    assert torch.autograd.gradcheck(value, leaves, fast_mode=True, atol=1e-6, rtol=1e-4)


@where(lambda objective: "teacher" in objective.needs and objective.matching)
def test_smallest_where_the_student_is_its_teacher(name: str, params: dict[str, Any], problem: str) -> None:
    objective, batch = made(name, params, TEACHER, TEACHER), batch_of(problem)
    teacher = signals_of(batch, TEACHER, objective.teacher_wants() | objective.student_wants(), 3)
    least, gradients = value_and_gradients(objective, teacher, teacher, batch)
    for seed in range(3):
        scale = 10.0**-seed
        other = mapped(teacher, lambda t, s=seed, f=scale: t + f * random(*t.shape, seed=50 + s))  # type: ignore[misc]
        value, slopes = value_and_gradients(objective, other, teacher, batch)
        assert float(least) < float(value)
        if scale == 1.0:
            assert norm(gradients) <= 1e-6 * norm(slopes)


@every_case
def test_padding_says_nothing(name: str, params: dict[str, Any], problem: str) -> None:
    """Whatever stands at padding tokens and beyond a group's documents, the sum is the same, and they get no gradient."""
    objective, batch = made(name, params, teacher=WIDE), batch_of(problem)
    student, teacher = both_signals(objective, batch, 1, teacher=WIDE)
    value, gradients = value_and_gradients(objective, student, teacher, batch)
    noisy, noisy_gradients = value_and_gradients(
        objective, _noisy(student, batch), None if teacher is None else _noisy(teacher, batch), batch
    )
    assert torch.allclose(noisy, value, rtol=1e-12)
    for a, b in zip(gradients, noisy_gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)
    outside = batch.attention_mask_BT == 0
    leaves = mapped(student, lambda t: t.clone().requires_grad_())
    objective(leaves, teacher, batch, 0.3).backward()  # type: ignore[no-untyped-call]
    for hidden in leaves.hidden.values():
        assert hidden.grad is None or not hidden.grad[outside].any()
    for tensor in (t for three in leaves.qkv.values() for t in three):
        assert tensor.grad is None or not tensor.grad.transpose(1, 2)[outside].any()
    if leaves.scores_GK is not None and leaves.scores_GK.grad is not None:
        assert not leaves.scores_GK.grad[~batch.members_GK].any()


def _noisy(signals: Signals, batch: Batch) -> Signals:
    outside_BT = batch.attention_mask_BT == 0

    def noise(tensor: Tensor) -> Tensor:
        return 1e3 * random(*tensor.shape, seed=9)

    return replace(
        signals,
        scores_GK=None if signals.scores_GK is None else signals.scores_GK.where(batch.members_GK, noise(signals.scores_GK)),
        hidden={i: h.where(~outside_BT[:, :, None], noise(h)) for i, h in signals.hidden.items()},
        qkv={i: tuple(t.where(~outside_BT[:, None, :, None], noise(t)) for t in three) for i, three in signals.qkv.items()},  # type: ignore[misc]
    )


@where(lambda objective: not objective.batchwise)
def test_parts_add_up_to_the_whole(name: str, params: dict[str, Any], problem: str) -> None:
    """However a window of rows is cut into micro-batches, sums and counts add up: the loop may divide once."""
    objective, batch = made(name, params, teacher=WIDE), batch_of(problem)
    student, teacher = both_signals(objective, batch, 2, teacher=WIDE)
    whole, gradients = value_and_gradients(objective, student, teacher, batch)
    leaves = mapped(student, lambda t: t.clone().requires_grad_())
    total, count = torch.zeros((), dtype=torch.float64), 0
    for examples in [[n] for n in range(1, len(batch.sizes))] + [[0]]:
        smaller, ours = part(batch, leaves, examples)
        theirs = None if teacher is None else part(batch, teacher, examples)[1]
        total, count = total + objective(ours, theirs, smaller, 0.3), count + objective.count(smaller)
    assert torch.allclose(total, whole, rtol=1e-12)
    assert count == objective.count(batch) > 0
    found = torch.autograd.grad(total, leaves.tensors(), allow_unused=True)
    for a, b in zip(found, gradients, strict=False):
        assert torch.allclose(torch.zeros_like(b) if a is None else a, b, rtol=1e-10, atol=1e-12)


@where(lambda objective: "labels" in objective.needs)
def test_what_has_no_label_says_nothing_to_labels(name: str, params: dict[str, Any], problem: str) -> None:
    objective, batch = made(name, params), batch_of(problem)
    student, teacher = both_signals(objective, batch, 4)
    floating = batch.labels.is_floating_point()
    silent = replace(batch, labels=torch.full_like(batch.labels, float("nan") if floating else NO_LABEL))
    value, gradients = value_and_gradients(objective, student, teacher, silent)
    assert value == 0
    assert norm(gradients) == 0
    assert objective.count(silent) == 0
    told = [e for e in range(len(batch.sizes)) if objective.count(part(batch, student, [e])[0])]
    smaller, ours = part(batch, student, told)
    assert torch.allclose(objective(ours, teacher, smaller, 0.3), objective(student, teacher, batch, 0.3), rtol=1e-12)
    assert objective.count(smaller) == objective.count(batch)


@where(lambda objective: objective.batchwise)
def test_relations_of_the_micro_batch_are_counted_as_rows(name: str, params: dict[str, Any], problem: str) -> None:
    objective, batch = made(name, params), batch_of(problem)
    assert objective.count(batch) > 0
    student, teacher = both_signals(objective, batch)
    smaller, ours = part(batch, student, [1])
    theirs = None if teacher is None else part(batch, teacher, [1])[1]
    value, gradients = value_and_gradients(objective, ours, theirs, smaller)
    assert bool(torch.isfinite(value))
    assert all(bool(torch.isfinite(g).all()) for g in gradients)


@where(lambda objective: objective.needs & {"logits", "scores"})
def test_extreme_logits_stay_finite(name: str, params: dict[str, Any], problem: str) -> None:
    objective, batch = in_float32(made(name, params)), batch_of(problem)
    plain = both_signals(objective, batch)

    calm = [None if s is None else mapped(s, Tensor.float) for s in plain]
    for extreme in (1e4, 1e30, float("inf"), float("-inf")):
        wild = [None if s is None else _spiked(s, extreme) for s in calm]
        for student, teacher in ((wild[0], calm[1]), (calm[0], wild[1]), (wild[0], wild[1])):
            assert student is not None
            value, gradients = value_and_gradients(objective, student, teacher, batch)
            assert not bool(torch.isnan(value))
            assert all(bool(torch.isfinite(g).all()) for g in gradients)


def _spiked(signals: Signals, extreme: float) -> Signals:
    """One number of the first row, and all of the last."""

    def spike(values: Tensor | None) -> Tensor | None:
        if values is None:
            return None
        values = values.clone()
        values[0, -1] = values[-1] = extreme
        return values

    return replace(signals, logits_NC=spike(signals.logits_NC), scores_GK=spike(signals.scores_GK))


@every_case
def test_zero_and_equal_vectors_stay_finite(name: str, params: dict[str, Any], problem: str) -> None:
    """A zero vector has no direction, equal ones no distance, one row no spread: the gradient is never NaN, nor huge."""
    batch = batch_of(problem)
    for shape in (TEACHER, WIDE):
        objective = in_float32(made(name, params, teacher=shape))
        student, teacher = both_signals(objective, batch, teacher=shape)
        for change in (_nothing, _first_is_nothing, _all_alike, _two_alike):
            for ours, theirs in ((change, None), (None, change), (change, change)):
                a = mapped(student, lambda t, f=ours: (f(t) if f else t).float())  # type: ignore[misc]
                b = None if teacher is None else mapped(teacher, lambda t, f=theirs: (f(t) if f else t).float())  # type: ignore[misc]
                value, gradients = value_and_gradients(objective, a, b, batch)
                assert bool(torch.isfinite(value))
                assert norm(gradients) < 1e6


def _nothing(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor)


def _first_is_nothing(tensor: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(tensor[:1]), tensor[1:]])


def _all_alike(tensor: Tensor) -> Tensor:
    return tensor[:1].expand_as(tensor).clone()


def _two_alike(tensor: Tensor) -> Tensor:
    return torch.cat([tensor[1:2], tensor[1:]])


@every_case
def test_half_precision_is_summed_in_float32(name: str, params: dict[str, Any], problem: str) -> None:
    objective, batch = made(name, params, teacher=WIDE), batch_of(problem)
    student, teacher = both_signals(objective, batch, 6, 3.0, teacher=WIDE)
    half, narrow = mapped(student, Tensor.bfloat16), None if teacher is None else mapped(teacher, Tensor.bfloat16)
    value = in_float32(objective)(half, narrow, batch, 0.5)
    assert value.dtype == torch.float32
    exact = objective(mapped(half, Tensor.double), None if narrow is None else mapped(narrow, Tensor.double), batch, 0.5)
    assert float((value - exact).detach().abs()) <= 1e-5 * max(float(exact.detach().abs()), 1e-3)


@every_case
def test_every_projection_is_trained(name: str, params: dict[str, Any], problem: str) -> None:
    objective, batch = made(name, params, teacher=WIDE), batch_of(problem)
    student, teacher = both_signals(objective, batch, teacher=WIDE)
    _, gradients = value_and_gradients(objective, student, teacher, batch)
    learned = list(objective.projections.parameters())
    assert all(bool(g.any()) for g in gradients[len(gradients) - len(learned) :])
    assert bool(learned) == bool(objective.plan().get("projections"))
    assert all(not t.requires_grad for t in (teacher.tensors() if teacher else []))


@where(lambda objective: "teacher" in objective.needs)
def test_the_teacher_decides_and_gets_no_gradient(name: str, params: dict[str, Any], problem: str) -> None:
    objective, batch = made(name, params), batch_of(problem)
    student, teacher = both_signals(objective, batch)
    assert teacher is not None
    leaves = mapped(teacher, lambda t: t.clone().requires_grad_())
    value = objective(student, leaves, batch, 0.0)
    assert not value.requires_grad  # the student's signals are plain here, and nothing is projected
    other = both_signals(objective, batch, 77)[1]
    assert float(objective(student, other, batch, 0.0)) != float(value)


@every_objective
def test_it_wants_what_it_needs(name: str) -> None:
    objective = made(name, {})
    wants = objective.student_wants()
    wanted = {n for n in ("logits", "embedding", "scores", "hidden", "qkv") if getattr(wants, n)}
    assert wanted == objective.needs - {"labels", "teacher"}
    assert bool(objective.teacher_wants()) == ("teacher" in objective.needs)
    assert objective.problems <= set(OFFERS)


@every_objective
def test_it_explains_itself(name: str) -> None:
    cls = catalogue()[name]
    told = inspect.getdoc(cls) or ""
    assert "Source:" in told or "Sources:" in told
    assert "=" in told or "Σ" in told, "the docstring gives the equation"
    assert "ounts" in told or "counted" in told or "over" in told, "the docstring says what is counted"
    for param, described in cls.Params.model_json_schema().get("properties", {}).items():
        assert described.get("description"), f"{param} is not described"
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        cls(no_such_parameter=1)


LAYERED = [(n, p) for n in catalogue() for p in ("layers", "teacher_layer") if p in catalogue()[n].Params.model_fields]


@pytest.mark.parametrize(("name", "param"), LAYERED)
def test_a_layer_that_is_not_there_is_refused(name: str, param: str) -> None:
    tried = 0
    for wrong in ([[1, 99]], [[99, 1]], [99], 99):
        try:
            objective: Objective = catalogue()[name](**{param: wrong})
        except ValueError:
            continue  # not of this parameter's form
        tried += 1
        with pytest.raises(InvalidRequest) as caught:
            objective.setup(STUDENT, TEACHER)
        assert caught.value.param == param
        assert caught.value.hint
    assert tried


@pytest.mark.parametrize("name", [n for n, cls in sorted(catalogue().items()) if "teacher" in cls.needs])
def test_signals_that_do_not_fit_together_are_refused(name: str) -> None:
    objective = made(name, {})
    problem = next(k for n, _, k in CASES if n == name)
    batch = batch_of(problem)
    student, teacher = both_signals(objective, batch)
    assert teacher is not None
    fewer = mapped(teacher, lambda t: t[:-1])
    with pytest.raises(IncompatibleModels, match="teacher"):
        objective(student, fewer, batch, 0.0)
    if teacher.hidden or teacher.qkv:
        shorter = mapped(teacher, lambda t: t[:, :, : TOKENS - 1] if t.dim() == 4 else t[:, : TOKENS - 1])
        with pytest.raises(IncompatibleModels, match="tokens"):
            objective(student, shorter, batch, 0.0)
