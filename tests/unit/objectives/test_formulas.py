"""Every shipped objective against its equation written out a second time, in plain Python (`formulas.py`)."""

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.objectives.formulas import FORMULAS, expected
from tests.unit.objectives.made import STUDENT, TEACHER, WIDE, batch_of, both_signals, cases, catalogue, made

NUMBERS: list[tuple[str, dict[str, Any], str]] = [  # parameters that are numbers, away from their defaults
    ("response", {"divergence": "jsd", "beta": 0.2}, "single_label"),
    ("response", {"divergence": "skew_kl", "skew": 0.7}, "tokens"),
    ("response", {"divergence": "skew_reverse_kl", "skew": 0.4, "temperature": 0.7}, "multi_label"),
    ("response", {"divergence": "decoupled_kl", "dkd_alpha": 2.0, "dkd_beta": 0.5}, "single_label"),
    ("response", {"per_sample": "flsw", "sample_b": 4.0, "sample_gamma": 2.0, "temperature": 8.0}, "single_label"),
    ("response", {"per_sample": "cwsm", "sample_b": 3.0, "standardize": True}, "masked_lm"),
    ("hard_label", {"label_smoothing": 0.1}, "single_label"),
    ("hard_label", {"label_smoothing": 0.1}, "multi_label"),
    ("dist", {"inter_weight": 0.3, "intra_weight": 2.0}, "single_label"),
    ("minilmv2", {"relation_heads": 1, "teacher_layer": 3, "query_weight": 2.0, "value_weight": 0.5}, "single_label"),
    ("hidden_mse", {"layers": [[2, 1], [0, 0], [1, 4]]}, "tokens"),
    ("attention_mse", {"layers": [[1, 3]]}, "ranking"),
    ("pkd", {"layers": [[1, 2], [2, 4]]}, "single_label"),
    ("infonce", {"temperature": 0.5, "symmetric": True}, "embedding"),
    ("listnet", {"temperature": 0.5, "teacher_temperature": 2.0}, "ranking"),
    ("listmle", {"top_k": 1}, "ranking"),
    ("listmle", {"top_k": 2}, "ranking"),
    ("ranknet", {"margin": 0.5, "min_gap": 0.8, "weights": "gap"}, "ranking"),
    ("margin_mse", {"teacher_scale": 0.25, "pairs": "best"}, "ranking"),
    ("early_exit", {"alpha": 0.2, "temperature": 2.0, "feature_weight": 0.5, "layers": [1]}, "single_label"),
]
CASES = [case for case in [*cases(), *NUMBERS] if case[0] in FORMULAS]


def test_all_shipped_objectives_have_a_formula() -> None:
    shipped = {n for n, cls in catalogue().items() if cls.__module__.startswith("worker.objectives.")}
    assert set(FORMULAS) <= shipped
    assert len(FORMULAS) >= 25


@pytest.mark.parametrize(("name", "params", "problem"), CASES, ids=[f"{n}-{p}-{k}" for n, p, k in CASES])
def test_value_is_the_equations(name: str, params: dict[str, Any], problem: str) -> None:
    batch = batch_of(problem)
    shapes = [TEACHER, WIDE, replace(TEACHER, heads=3)] if name in ("attention_mse", "minilmv2") else [TEACHER, WIDE]
    for seed, teacher_shape in enumerate(shapes):
        objective = made(name, params, STUDENT, teacher_shape)
        student, teacher = both_signals(objective, batch, 20 + seed, 1.5, teacher=teacher_shape)
        value = objective(student, teacher, batch, 0.3)
        assert float(value.detach()) == pytest.approx(expected(objective, student, teacher, batch, 0.3), rel=1e-9)
