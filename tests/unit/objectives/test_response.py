"""What the soft term means: the equation by hand, its temperature, its zero."""

import math

import pytest
import torch
from pydantic import ValidationError

from worker.objectives.base import DenseLogits, StudentOutput
from worker.objectives.response import Response
from worker.rows import NO_LABEL

LABELS = torch.tensor([0, NO_LABEL])
STUDENT = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.5, 0.5]], dtype=torch.float64)
TEACHER = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 3.0, 0.0]], dtype=torch.float64)


def test_the_equation_by_hand() -> None:
    tau = 3.0
    expected = 0.0
    for z_s, z_t in zip(STUDENT.tolist(), TEACHER.tolist(), strict=True):
        p = [math.exp(z / tau) / sum(math.exp(o / tau) for o in z_t) for z in z_t]
        q = [math.exp(z / tau) / sum(math.exp(o / tau) for o in z_s) for z in z_s]
        expected += tau**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    value = Response(temperature=tau)(StudentOutput(STUDENT), DenseLogits(TEACHER), LABELS, 0.0)
    assert float(value) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tau", [0.5, 1.0, 7.0])
def test_gradient_is_tau_times_q_minus_p(tau: float) -> None:
    student = STUDENT.clone().requires_grad_()
    Response(temperature=tau)(StudentOutput(student), DenseLogits(TEACHER), LABELS, 0.0).backward()
    expected = tau * (torch.softmax(STUDENT / tau, -1) - torch.softmax(TEACHER / tau, -1))
    assert torch.allclose(student.grad, expected, rtol=1e-10)  # type: ignore[arg-type]


def test_a_student_equal_to_its_teacher_loses_nothing() -> None:
    student = TEACHER.float().requires_grad_()
    value = Response(temperature=2.0)(StudentOutput(student), DenseLogits(TEACHER.float()), LABELS, 0.0)
    value.backward()
    assert value.item() == 0.0
    assert float(student.grad.abs().max()) <= 1e-6  # type: ignore[union-attr]


def test_the_temperature_follows_its_schedule() -> None:
    warm = Response(temperature={"schedule": "linear", "start": 8.0, "end": 2.0})
    for x, tau in ((0.0, 8.0), (0.5, 5.0), (1.0, 2.0)):
        value = warm(StudentOutput(STUDENT), DenseLogits(TEACHER), LABELS, x)
        assert float(value) == float(Response(temperature=tau)(StudentOutput(STUDENT), DenseLogits(TEACHER), LABELS, 0.0))
    assert warm.schedules()["temperature"](0.5) == 5.0


@pytest.mark.parametrize("temperature", [0, -1, 101, {"schedule": "linear", "start": 4, "end": 0}])
def test_a_temperature_that_cannot_be_is_refused(temperature: object) -> None:
    with pytest.raises(ValidationError, match="temperature"):
        Response(temperature=temperature)


def test_teacher_and_student_of_different_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        Response()(StudentOutput(STUDENT), DenseLogits(TEACHER[:, :2]), LABELS, 0.0)
