"""What the soft term means: the equation by hand, its gradient, its temperature, its family."""

import itertools
import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from app.domain.errors import IncompatibleModels, InvalidRequest
from tests.unit.objectives.formulas import adaptive_head
from worker.losses import divergences
from worker.objectives.base import distributions, log_softmax
from worker.objectives.response import SPEAKS_OF, Response
from worker.rows import NO_LABEL, Batch
from worker.signals import Signals

STUDENT = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.5, 0.5]], dtype=torch.float64)
TEACHER = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 3.0, 0.0]], dtype=torch.float64)
DIVERGENCES = Response.Params.model_json_schema()["properties"]["divergence"]["enum"]


def _batch(labels: Tensor, problem: str = "single_label") -> Batch:
    ones = torch.ones(len(labels), 1, dtype=torch.long)
    return Batch(torch.arange(len(labels)), ones, ones, labels, problem, sizes=(1,) * len(labels))


BATCH = _batch(torch.tensor([0, NO_LABEL]))


def _value(student: Tensor, teacher: Tensor, batch: Batch = BATCH, x: float = 0.0, **params: Any) -> Tensor:
    return Response(**params)(Signals(student), Signals(teacher), batch, x)


def _gradient(teacher: Tensor = TEACHER, **params: Any) -> Tensor:
    leaf = STUDENT.clone().requires_grad_()
    return torch.autograd.grad(_value(leaf, teacher, **params), leaf)[0]


def test_the_equation_by_hand() -> None:
    tau = 3.0
    expected = 0.0
    for z_s, z_t in zip(STUDENT.tolist(), TEACHER.tolist(), strict=True):
        p = [math.exp(z / tau) / sum(math.exp(o / tau) for o in z_t) for z in z_t]
        q = [math.exp(z / tau) / sum(math.exp(o / tau) for o in z_s) for z in z_s]
        expected += tau**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert float(_value(STUDENT, TEACHER, temperature=tau)) == pytest.approx(expected, rel=1e-12)


def test_numbers_worked_out_on_paper() -> None:
    """p = (3/4, 1/4), q = (1/2, 1/2)."""
    p, q = torch.tensor([[0.75, 0.25]], dtype=torch.float64).log(), torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    ln = math.log
    assert float(divergences.kl(p, q)) == pytest.approx(0.75 * ln(1.5) - 0.25 * ln(2), rel=1e-12)
    assert float(divergences.kl(q, p)) == pytest.approx(0.5 * ln(2 / 3) + 0.5 * ln(2), rel=1e-12)
    assert float(divergences.total_variation(p, q)) == pytest.approx(0.25, rel=1e-12)
    m = (0.625, 0.375)
    jsd = 0.5 * (0.75 * ln(0.75 / m[0]) + 0.25 * ln(0.25 / m[1])) + 0.5 * (0.5 * ln(0.5 / m[0]) + 0.5 * ln(0.5 / m[1]))
    assert float(divergences.jensen_shannon(p, q, 0.5)) == pytest.approx(jsd, rel=1e-12)
    assert float(divergences.skew_kl(p, q, 0.5)) == pytest.approx(0.75 * ln(0.75 / m[0]) + 0.25 * ln(0.25 / m[1]), rel=1e-12)
    three = [torch.tensor([row], dtype=torch.float64).log() for row in ([0.5, 0.25, 0.25], [0.25, 0.5, 0.25])]
    binary, others = 0.5 * ln(2) + 0.5 * ln(2 / 3), 0.5 * ln(0.5 / (2 / 3)) + 0.5 * ln(0.5 / (1 / 3))
    assert float(divergences.decoupled_kl(*three, torch.tensor([0]), 1.0, 0.0)) == pytest.approx(binary, rel=1e-12)
    assert float(divergences.decoupled_kl(*three, torch.tensor([0]), 0.0, 1.0)) == pytest.approx(others, rel=1e-12)
    assert float(divergences.logit_mse(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]]))) == 2.5


@pytest.mark.parametrize("tau", [0.5, 1.0, 7.0])
def test_gradient_is_tau_times_q_minus_p(tau: float) -> None:
    expected = tau * (torch.softmax(STUDENT / tau, -1) - torch.softmax(TEACHER / tau, -1))
    assert torch.allclose(_gradient(temperature=tau), expected, rtol=1e-10)


@pytest.mark.parametrize("tau", [0.5, 2.0])
def test_gradients_of_the_reverse_and_the_adaptive_kl(tau: float) -> None:
    """tau q (log q − log p − KL); and the adaptive mixture, whose weights are constants to it."""
    p, q = torch.softmax(TEACHER / tau, -1), torch.softmax(STUDENT / tau, -1)
    gap = q.log() - p.log()
    reverse = tau * q * (gap - (q * gap).sum(-1, keepdim=True))
    assert torch.allclose(_gradient(divergence="reverse_kl", temperature=tau), reverse, rtol=1e-10)
    head = torch.tensor([[adaptive_head(a, b)] for a, b in zip(p.tolist(), q.tolist(), strict=True)], dtype=torch.float64)
    adaptive = head * tau * (q - p) + (1 - head) * reverse
    assert torch.allclose(_gradient(divergence="adaptive_kl", temperature=tau), adaptive, rtol=1e-10)


@pytest.mark.parametrize("kind", ["flsw", "cwsm"])
def test_gradient_at_each_rows_own_temperature(kind: str) -> None:
    """tau_i (q − p) at tau_i: the temperature itself is a constant to it."""
    w = (1 - torch.cosine_similarity(STUDENT, TEACHER)) ** 2 if kind == "flsw" else 1 / torch.softmax(STUDENT, -1).amax(-1)
    tau = (3.0 + 0.5 * (w.mean() - w))[:, None]
    assert float(tau[0]) != float(tau[1])
    expected = tau * (torch.softmax(STUDENT / tau, -1) - torch.softmax(TEACHER / tau, -1))
    found = _gradient(temperature=3.0, per_sample=kind, sample_b=0.5, sample_gamma=2.0)
    assert torch.allclose(found, expected, rtol=1e-10)


def test_a_rows_own_temperature_stays_within_bounds() -> None:
    for b in (0.0, 100.0):
        value = _value(20 * STUDENT, TEACHER, per_sample="cwsm", sample_b=b, temperature=1.0)
        assert math.isfinite(float(value))
    same = _value(STUDENT, TEACHER, per_sample="flsw", sample_b=0.0)
    assert float(same) == pytest.approx(float(_value(STUDENT, TEACHER)), rel=1e-12)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_student_equal_to_its_teacher_loses_nothing(divergence: str) -> None:
    student = TEACHER.float().requires_grad_()
    value = _value(student, TEACHER.float(), divergence=divergence)
    value.backward()  # type: ignore[no-untyped-call]
    assert abs(value.item()) <= 1e-7
    assert float(student.grad.abs().max()) <= 1e-6  # type: ignore[union-attr]


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_no_divergence_is_ever_negative(divergence: str) -> None:
    generator = torch.Generator().manual_seed(1)
    for scale in (1e-4, 1e-2, 1.0, 30.0):
        teacher = 3 * torch.randn(64, 7, generator=generator)
        student = teacher + scale * torch.randn(64, 7, generator=generator)
        batch = _batch(torch.randint(0, 7, (64,), generator=generator))
        assert float(_value(student, teacher, batch, divergence=divergence)) > 0


@pytest.mark.parametrize("scale", [1e-3, 1e-2, 1e-1])
def test_kl_is_right_where_both_are_close(scale: float) -> None:
    """The first-order terms cancel: what a plain Σ p (log p − log q) in float32 loses is kept."""
    generator = torch.Generator().manual_seed(2)
    teacher = torch.randn(200, 50, generator=generator)
    student = teacher + scale * torch.randn(200, 50, generator=generator)
    exact = float(divergences.kl(log_softmax(teacher.double(), 1.0), log_softmax(student.double(), 1.0)).sum())
    plain = torch.nn.functional.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="sum", log_target=True)
    ours = float(divergences.kl(log_softmax(teacher, 1.0), log_softmax(student, 1.0)).sum())
    assert abs(ours - exact) <= 2e-7 / scale * exact
    assert abs(ours - exact) <= max(abs(float(plain) - exact), 1e-7 * exact)
    assert float(divergences.kl(log_softmax(teacher.double(), 1.0), log_softmax(student.double(), 1.0)).min()) >= 0


def test_the_family_hangs_together() -> None:
    p, q = log_softmax(TEACHER, 1.0), log_softmax(STUDENT, 1.0)
    assert torch.allclose(divergences.jensen_shannon(p, q, 0.3), divergences.jensen_shannon(q, p, 0.7), rtol=1e-12)
    assert float(divergences.jensen_shannon(p, q, 0.5).max()) <= math.log(2)
    assert torch.allclose(divergences.skew_kl(p, q, 1e-9), divergences.kl(p, q), rtol=1e-6)
    assert torch.allclose(divergences.jensen_shannon(p, q, 1e-6) / 1e-6, divergences.kl(p, q), rtol=1e-4)
    assert bool((divergences.total_variation(p, q) <= (divergences.kl(p, q) / 2).sqrt()).all())  # Pinsker
    target = torch.tensor([1, 2])
    target_p = p.exp().gather(1, target[:, None])[:, 0]
    parts = divergences.decoupled_kl(p, q, target, 1.0, 0.0) + (1 - target_p) * divergences.decoupled_kl(p, q, target, 0.0, 1.0)
    assert torch.allclose(parts, divergences.kl(p, q), rtol=1e-12)


def test_several_labels_are_as_many_yes_or_no_questions() -> None:
    batch = _batch(torch.zeros(2, 3), "multi_label")
    p, q = torch.sigmoid(TEACHER / 2), torch.sigmoid(STUDENT / 2)
    bernoulli = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum()
    assert float(_value(STUDENT, TEACHER, batch, temperature=2.0)) == pytest.approx(4 * float(bernoulli), rel=1e-12)
    assert Response().count(batch) == 6
    assert torch.allclose(distributions(STUDENT, "multi_label").softmax(-1)[:, 0], torch.sigmoid(STUDENT).flatten())


def test_standardised_logits_keep_their_shape_alone() -> None:
    assert float(_value(5 * TEACHER + 3, TEACHER, standardize=True)) == pytest.approx(0, abs=1e-12)
    flat = _value(torch.ones_like(STUDENT), TEACHER, standardize=True)
    uniform = log_softmax(torch.zeros_like(STUDENT), 2.0)
    z = (TEACHER - TEACHER.mean(-1, keepdim=True)) / TEACHER.std(-1, keepdim=True, correction=0)
    assert float(flat) == pytest.approx(4 * float(divergences.kl(log_softmax(z, 2.0), uniform).sum()), rel=1e-12)


def test_the_temperature_follows_its_schedule() -> None:
    warm = Response(temperature={"schedule": "linear", "start": 8.0, "end": 2.0})
    for x, tau in ((0.0, 8.0), (0.5, 5.0), (1.0, 2.0)):
        value = warm(Signals(STUDENT), Signals(TEACHER), BATCH, x)
        assert float(value) == float(_value(STUDENT, TEACHER, temperature=tau))
    assert warm.schedules()["temperature"](0.5) == 5.0


@pytest.mark.parametrize("temperature", [0, -1, 101, {"schedule": "linear", "start": 4, "end": 0}])
def test_a_temperature_that_cannot_be_is_refused(temperature: object) -> None:
    with pytest.raises(ValidationError, match="temperature"):
        Response(temperature=temperature)


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_the_ends_of_the_jensen_shannon_divergence_are_refused(beta: float) -> None:
    with pytest.raises(ValidationError, match="beta"):
        Response(divergence="jsd", beta=beta)


def test_teacher_and_student_of_different_classes_are_refused() -> None:
    with pytest.raises(IncompatibleModels, match=r"\(2, 3\).*\(2, 2\)"):
        _value(STUDENT, TEACHER[:, :2])


@pytest.mark.parametrize(("divergence", "problem"), list(itertools.product(DIVERGENCES, sorted(Response.problems))))
def test_a_divergence_says_which_targets_it_can_compare(divergence: str, problem: str) -> None:
    """And the catalogue says so too."""
    labels = {"multi_label": torch.zeros(2, 3), "regression": torch.zeros(2)}.get(problem, torch.zeros(2, dtype=torch.long))
    exported = Response.Params.model_json_schema()["properties"]["divergence"]["x-problems"]
    width = 1 if problem == "regression" else 3
    if problem in exported[divergence]:
        assert math.isfinite(float(_value(STUDENT[:, :width], TEACHER[:, :width], _batch(labels, problem), divergence=divergence)))
    else:
        with pytest.raises(InvalidRequest) as caught:
            _value(STUDENT[:, :width], TEACHER[:, :width], _batch(labels, problem), divergence=divergence)
        assert caught.value.param == "divergence"
    assert exported == SPEAKS_OF


def test_the_catalogue_says_whom_standardising_suits() -> None:
    """As the objective itself does."""
    exported = Response.Params.model_json_schema()["properties"]["standardize"]
    assert exported["x-least-classes"] == {"true": 3}
    for problem in Response.problems:
        labels = {"multi_label": torch.zeros(2, 3), "regression": torch.zeros(2)}.get(problem, torch.zeros(2, dtype=torch.long))
        told = {"divergence": "logit_mse", "standardize": True}
        if problem in exported["x-problems"]["true"]:
            assert math.isfinite(float(_value(STUDENT, TEACHER, _batch(labels, problem), **told)))
        else:
            with pytest.raises(InvalidRequest) as caught:
                _value(STUDENT, TEACHER, _batch(labels, problem), **told)
            assert caught.value.param == "standardize"


def test_standardising_two_classes_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        _value(STUDENT[:, :2], TEACHER[:, :2], standardize=True)
    assert caught.value.param == "standardize"
