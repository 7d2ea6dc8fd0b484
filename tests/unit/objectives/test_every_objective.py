"""Every registered objective against float64, and what all of them promise: nothing here names one that has to be added by hand."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worker import plugins
from worker.objectives.base import DenseLogits, Objective, StudentOutput
from worker.rows import NO_LABEL

ROWS, CLASSES = 12, 7
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "response": [{"temperature": t} for t in (0.5, 1.0, 4.0)] + [{"temperature": {"schedule": "cosine", "start": 8, "end": 1}}],
    "hard_label": [{}, {"label_smoothing": 0.1}],
}
CASES = [(name, params) for name in plugins.discover("objectives") for params in VARIANTS.get(name, [{}])]
every_objective = pytest.mark.parametrize(("name", "params"), CASES, ids=lambda v: str(v))


def _objective(name: str, params: dict[str, Any]) -> Objective:
    made: Objective = plugins.get("objectives", name)(**params)
    return made


def _labels(seed: int = 0, rows: int = ROWS) -> Tensor:
    labels = torch.randint(0, CLASSES, (rows,), generator=torch.Generator().manual_seed(seed))
    labels[1::4] = NO_LABEL
    return labels


def _logits(seed: int, scale: float = 3.0, rows: int = ROWS) -> Tensor:
    return torch.randn(rows, CLASSES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def _value_and_gradient(objective: Objective, student: Tensor, teacher: Tensor, labels: Tensor, x: float) -> tuple[Tensor, Tensor]:
    leaf = student.clone().requires_grad_()
    value = objective(StudentOutput(leaf), DenseLogits(teacher), labels, x)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


@every_objective
@given(seed=st.integers(0, 10_000), scale=st.floats(1, 20), x=st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_value_and_gradient_agree_with_float64(name: str, params: dict[str, Any], seed: int, scale: float, x: float) -> None:
    objective, labels = _objective(name, params), _labels(seed)
    student, teacher = _logits(seed, scale), _logits(seed + 1, scale)
    # Both start from what float32 can hold: the arithmetic is measured, not the rounding of the inputs.
    student, teacher = student.float().double(), teacher.float().double()
    exact, exact_gradient = _value_and_gradient(objective, student, teacher, labels, x)
    value, gradient = _value_and_gradient(objective, student.float(), teacher.float(), labels, x)
    assert value.dtype == gradient.dtype == torch.float32
    assert float((value - exact).abs()) <= 1e-5 * max(float(exact.abs()), 1e-3)
    assert float((gradient - exact_gradient).norm()) <= 1e-5 * max(float(exact_gradient.norm()), 1e-3)


@every_objective
def test_gradient_is_the_slope_of_the_value(name: str, params: dict[str, Any]) -> None:
    objective, labels, teacher = _objective(name, params), _labels(), _logits(1)
    student = _logits(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: objective(StudentOutput(z), DenseLogits(teacher), labels, 0.4), [student])


@every_objective
def test_rows_without_a_label_get_no_gradient_from_labels(name: str, params: dict[str, Any]) -> None:
    objective, labels = _objective(name, params), _labels()
    _, gradient = _value_and_gradient(objective, _logits(1), _logits(2), labels, 0.5)
    silent = labels == NO_LABEL
    if "labels" in objective.needs:
        assert torch.equal(gradient[silent], torch.zeros_like(gradient[silent]))
        assert objective.count(labels) == int((~silent).sum())
        alone = torch.full_like(labels, NO_LABEL)
        value, none = _value_and_gradient(objective, _logits(1), _logits(2), alone, 0.5)
        assert value == 0
        assert objective.count(alone) == 0
        assert not none.any()
    else:
        assert gradient[silent].abs().sum() > 0
        assert objective.count(labels) == len(labels)


@every_objective
def test_parts_add_up_to_the_whole(name: str, params: dict[str, Any]) -> None:
    """However a window of rows is cut into micro-batches, sums and counts add up: the loop may divide once."""
    objective, labels, student, teacher = _objective(name, params), _labels(), _logits(1), _logits(2)
    whole, gradient = _value_and_gradient(objective, student, teacher, labels, 0.3)
    parts = [slice(0, 5), slice(5, 6), slice(6, ROWS)]
    pieces = [_value_and_gradient(objective, student[p], teacher[p], labels[p], 0.3) for p in parts]
    assert torch.allclose(sum((v for v, _ in pieces), torch.zeros((), dtype=torch.float64)), whole, rtol=1e-12)
    assert torch.allclose(torch.cat([g for _, g in pieces]), gradient, rtol=1e-12)
    assert sum(objective.count(labels[p]) for p in parts) == objective.count(labels)


@every_objective
@pytest.mark.parametrize("extreme", [0.0, 1e4, 1e30, float("inf"), float("-inf")])
@pytest.mark.parametrize("side", ["student", "teacher", "both"])
def test_extreme_logits_stay_finite(name: str, params: dict[str, Any], extreme: float, side: str) -> None:
    student, teacher = _logits(1).float(), _logits(2).float()
    for which, logits in (("student", student), ("teacher", teacher)):
        if side in (which, "both"):
            logits[0, 2] = extreme
            logits[3] = extreme
    value, gradient = _value_and_gradient(_objective(name, params), student, teacher, _labels(), 0.5)
    assert bool(torch.isfinite(gradient).all())
    assert not bool(torch.isnan(value))


@every_objective
def test_half_precision_logits_are_summed_in_float32(name: str, params: dict[str, Any]) -> None:
    student, teacher = _logits(1).bfloat16(), _logits(2).float()
    value = _objective(name, params)(StudentOutput(student), DenseLogits(teacher), _labels(), 0.5)
    assert value.dtype == torch.float32
    exact = _objective(name, params)(StudentOutput(student.double()), DenseLogits(teacher.double()), _labels(), 0.5)
    assert float((value - exact).abs()) <= 1e-5 * float(exact.abs())


@every_objective
def test_it_explains_itself(name: str, params: dict[str, Any]) -> None:
    cls = plugins.discover("objectives")[name]
    assert cls.__doc__ is not None
    assert "Source:" in cls.__doc__ or "Sources:" in cls.__doc__
    assert "=" in cls.__doc__ or "Σ" in cls.__doc__, "the docstring gives the equation"
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        cls(**params, no_such_parameter=1)
