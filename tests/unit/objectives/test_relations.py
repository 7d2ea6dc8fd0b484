"""What relational, ranking and layer-wise objectives are blind to, and what they see."""

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from app.domain.errors import IncompatibleModels
from tests.unit.objectives.formulas import Given, early_exit
from tests.unit.objectives.made import (
    STUDENT,
    TEACHER,
    WIDE,
    batch_of,
    both_signals,
    made,
    mapped,
    norm,
    random,
    value_and_gradients,
)
from worker.losses.geometry import angles, cka, cosine_distance, distances, pearson_distance, unit
from worker.rows import Batch
from worker.signals import Signals

E = random(7, 6, seed=1)
ROTATION = torch.linalg.qr(random(6, 6, seed=2))[0]
BATCH = batch_of("embedding")


def _loss(name: str, student: Tensor, teacher: Tensor = E, batch: Batch = BATCH, **params: Any) -> float:
    objective = made(name, params, replace(STUDENT, embedding=student.shape[1]))
    return float(objective(Signals(embedding_BE=student), Signals(embedding_BE=teacher), batch, 0.0).detach())


@pytest.mark.parametrize("name", ["rkd_distance", "rkd_angle", "similarity_kl", "similarity_preserving"])
def test_relations_do_not_see_a_rotation(name: str) -> None:
    assert _loss(name, E @ ROTATION) == pytest.approx(0, abs=1e-12)
    assert _loss(name, E @ random(6, 6, seed=3)) > 1e-4


def test_relations_of_distance_see_neither_scale_nor_place() -> None:
    for name in ("rkd_distance", "rkd_angle"):
        assert _loss(name, 5 * E + 3) == pytest.approx(0, abs=1e-12)
    assert _loss("similarity_kl", 5 * E) == pytest.approx(0, abs=1e-12)
    assert _loss("similarity_kl", 5 * E, normalize=False, temperature=1.0) > 1e-3


def test_a_narrower_student_keeps_relations_without_a_projection() -> None:
    for name in ("rkd_distance", "rkd_angle", "similarity_kl", "similarity_preserving"):
        assert _loss(name, random(7, 3, seed=5)) > 0
        assert not list(made(name, {}, teacher=WIDE).projections.parameters())


def test_cka_sees_neither_rotation_nor_scale_nor_place() -> None:
    assert float(cka(E, 3 * E @ ROTATION + 1)) == pytest.approx(1, rel=1e-12)
    x, y = random(2000, 5, seed=6), random(2000, 8, seed=7)
    assert float(cka(x, y)) < 0.02  # nothing in common
    assert float(cka(torch.ones(4, 3), y[:4])) == 1.0  # one point: nothing to align


def test_infonce_of_the_right_row_alone_is_nothing() -> None:
    """Vectors at right angles: at a low temperature each row finds its own; in the wrong order none does."""
    right = torch.eye(7, 7, dtype=torch.float64)
    shape = replace(TEACHER, embedding=7)
    objective = made("infonce", {"temperature": 0.01}, shape, shape)
    told = [float(objective(Signals(embedding_BE=e), Signals(embedding_BE=right), BATCH, 0.0)) for e in (right, right.roll(1, 0))]
    assert told[0] == pytest.approx(0, abs=1e-12)
    assert told[1] == pytest.approx(7 * 100, rel=1e-6)


def test_single_rows_have_no_relations_and_are_not_counted() -> None:
    one = replace(BATCH, index_B=BATCH.index_B[:1])
    for name in ("infonce", "rkd_distance", "rkd_angle", "similarity_kl", "similarity_preserving"):
        assert made(name, {}).count(one) == 0
        assert made(name, {}).count(BATCH) == 7


def test_distances_angles_and_correlations_by_hand() -> None:
    corner = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    assert torch.allclose(distances(corner), torch.tensor([[0.0, 3, 4], [3, 0, 5], [4, 5, 0]], dtype=torch.float64) / 4)
    assert float(angles(corner)[0, 1, 2]) == 0.0  # a right angle at the corner
    assert float(angles(corner)[1, 0, 2]) == pytest.approx(3 / 5)
    x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    assert float(pearson_distance(x, 5 - 2 * x)) == pytest.approx(2)
    assert float(pearson_distance(x, 7 + 2 * x)) == pytest.approx(0, abs=1e-15)
    assert float(cosine_distance(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))) == 1.0


def test_what_has_no_direction() -> None:
    zero, one = torch.zeros(1, 3), torch.ones(1, 3)
    assert not unit(zero).any()
    assert float(cosine_distance(zero, one)) == float(cosine_distance(one, zero)) == 1.0
    assert float(cosine_distance(zero, zero)) == 0.0
    even = torch.full((1, 7), 1 / 7)
    assert float(pearson_distance(even, torch.rand(1, 7))) == 1.0  # rounding noise is no correlation
    assert float(pearson_distance(even, even)) == 0.0


# -- ranking -----------------------------------------------------------------------------------------------------------

QUERY = replace(batch_of("ranking"), sizes=(4,), labels=torch.full((1, 4), float("nan")))


def _scores(name: str, student: list[float], teacher: list[float], batch: Batch = QUERY, **params: Any) -> float:
    ours, theirs = (Signals(scores_GK=torch.tensor([s], dtype=torch.float64)) for s in (student, teacher))
    return float(made(name, params)(ours, theirs, batch, 0.0))


def test_the_likelihoods_of_all_orders_sum_to_one() -> None:
    scores = [0.3, -1.0, 2.0, 0.7]
    orders = [[float(place) for place in order] for order in itertools.permutations(range(4))]
    assert sum(math.exp(-_scores("listmle", scores, order)) for order in orders) == pytest.approx(1, rel=1e-12)
    firsts = {order.index(3.0): math.exp(-_scores("listmle", scores, order, top_k=1)) for order in orders}
    assert list(firsts.values()) == pytest.approx(torch.tensor(scores, dtype=torch.float64)[list(firsts)].softmax(0).tolist())


@pytest.mark.parametrize("name", ["listmle", "ranknet"])
def test_order_alone_does_not_see_the_teachers_scale(name: str) -> None:
    student, teacher = [0.3, -1.0, 2.0, 0.7], [1.0, 2.0, 0.5, -4.0]
    assert _scores(name, student, teacher) == pytest.approx(_scores(name, student, [100 * t - 7 for t in teacher]), rel=1e-12)
    assert _scores(name, teacher, teacher) < _scores(name, [-t for t in teacher], teacher)


def test_pairs_that_the_teacher_calls_a_tie_are_left_alone() -> None:
    assert _scores("ranknet", [1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]) == 0
    assert _scores("ranknet", [1.0, 2.0, 3.0, 4.0], [0.0, 0.1, 0.2, 0.3], min_gap=0.5) == 0
    assert _scores("ranknet", [0.0] * 4, [0.0, 1.0, 1.0, 1.0]) == pytest.approx(math.log(2), rel=1e-12)


def test_margins_see_differences_alone() -> None:
    teacher = [1.0, 2.0, 0.5, -4.0]
    for pairs in ("all", "best"):
        assert _scores("margin_mse", [t + 5 for t in teacher], teacher, pairs=pairs) == pytest.approx(0, abs=1e-24)
        tenth = _scores("margin_mse", [t / 10 for t in teacher], teacher, pairs=pairs, teacher_scale=0.1)
        assert tenth == pytest.approx(0, abs=1e-24)
    one = [2.0, *teacher[1:]]
    assert _scores("margin_mse", one, teacher) == pytest.approx(3 / 6)  # three of six pairs are off by 1
    assert _scores("margin_mse", one, teacher, pairs="best") == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", ["listnet", "listmle", "ranknet", "margin_mse", "hard_rank"])
def test_the_group_of_a_bi_encoder_begins_with_its_query(name: str) -> None:
    """One sequence more than there are scores; labels are as wide as the group."""
    cross = batch_of("ranking")
    nan = torch.full((3, 1), float("nan"))
    twin = replace(cross, sizes=tuple(s + 1 for s in cross.sizes), labels=torch.cat([cross.labels, nan], 1))
    objective = made(name, {})
    student, teacher = both_signals(objective, cross)
    assert float(objective(student, teacher, twin, 0.0)) == float(objective(student, teacher, cross, 0.0)) != 0
    assert objective.count(twin) == objective.count(cross)


# -- layers ------------------------------------------------------------------------------------------------------------


def test_minilm_wants_the_same_heads_and_minilmv2_does_not() -> None:
    three = replace(TEACHER, heads=3)
    with pytest.raises(IncompatibleModels, match="head by head") as caught:
        made("minilm", {}, STUDENT, three)
    assert "minilmv2" in str(caught.value.hint)
    assert made("minilmv2", {}, STUDENT, three).plan() == {"layers": [(2, 4)], "relation_heads": 3}
    assert made("minilmv2", {}, STUDENT, replace(WIDE, heads=4)).plan()["relation_heads"] == 2  # of 6 and 8
    with pytest.raises(IncompatibleModels, match="5 relation heads") as caught:
        made("minilmv2", {"relation_heads": 5})
    assert "1, 2, 3, 6" in str(caught.value.hint)


def test_one_value_relation_head_per_attention_head_is_minilms_value_relation() -> None:
    batch = batch_of("single_label")
    v1, v2 = made("minilm", {}), made("minilmv2", {"relation_heads": 2, "query_weight": 0, "key_weight": 0})
    student, teacher = both_signals(v1, batch)
    assert teacher is not None

    def attention_taught(s: Signals, t: Signals) -> Signals:
        """The student's values with its teacher's queries and keys: attention adds nothing."""
        (ours,), (theirs,) = s.qkv.values(), t.qkv.values()
        return Signals(qkv={2: (theirs[0], theirs[1], ours[2])})

    ours = attention_taught(student, teacher)
    assert float(v1(ours, teacher, batch, 0.0)) == pytest.approx(float(v2(ours, teacher, batch, 0.0)), rel=1e-12)


def test_the_plan_shows_layers_and_projections() -> None:
    assert made("hidden_mse", {"include_embeddings": True}, STUDENT, WIDE).plan() == {
        "layers": [(0, 0), (1, 2), (2, 4)],
        "projections": {"layer_0_0": [6, 8], "layer_1_2": [6, 8], "layer_2_4": [6, 8]},
    }
    assert made("attention_mse", {"layers": "block_influence"}).plan() == {"layers": [(1, 2), (2, 4)], "heads": "one by one"}
    assert made("attention_mse", {}, STUDENT, replace(TEACHER, heads=3)).plan()["heads"] == "their mean"
    assert made("pkd", {}).plan() == {"layers": [(1, 2)], "projections": {}}
    assert made("early_exit", {}).plan()["projections"] == {"state_1": [6, 6], "exit_1": [6, 5]}


def test_a_projection_can_be_learned_until_nothing_is_left() -> None:
    """The teacher's states are a linear map of the student's: the projection finds it."""
    batch = batch_of("single_label")
    objective = made("hidden_mse", {"layers": "last"}, STUDENT, WIDE)
    student, teacher = both_signals(objective, batch, teacher=WIDE)
    assert teacher is not None
    truth = random(6, 8, seed=8)
    teacher = Signals(hidden={4: student.hidden[2] @ truth})
    optimizer = torch.optim.LBFGS(objective.projections.parameters(), max_iter=200, tolerance_change=1e-14)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(student, teacher, batch, 0.0)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    before = float(closure().detach())
    optimizer.step(closure)  # type: ignore[arg-type]
    assert float(closure().detach()) < 1e-8 * before


# -- oneself -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", ["single_label", "multi_label"])
def test_exits_learn_from_the_last_layer_which_does_not_learn_from_them(problem: str) -> None:
    objective, batch = made("early_exit", {}), batch_of(problem)
    student, _ = both_signals(objective, batch)
    leaves = mapped(student, lambda t: t.clone().requires_grad_())
    objective(leaves, None, batch, 0.0).backward()  # type: ignore[no-untyped-call]
    assert leaves.logits_NC is not None
    assert leaves.logits_NC.grad is None
    assert leaves.hidden[2].grad is None
    found, step = leaves.hidden[1].grad, 1e-6
    assert found is not None
    for b, t, d in ((0, 0, 0), (1, 1, 3), (2, 2, 5), (3, 0, 2)):
        ends = []
        for sign in (1, -1):
            state = student.hidden[1].clone()
            state[b, t, d] += sign * step
            moved = Signals(student.logits_NC, hidden={1: state, 2: student.hidden[2]})
            ends.append(early_exit(Given(objective, moved, None, batch, 0.0), frozen=student))
        assert float(found[b, t, d]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


def test_an_exit_without_labels_still_has_a_teacher() -> None:
    batch = batch_of("single_label")
    silent = replace(batch, labels=torch.full_like(batch.labels, -100))
    objective = made("early_exit", {"alpha": 0.5})
    student, _ = both_signals(objective, batch)
    _, gradients = value_and_gradients(objective, student, None, silent)
    assert norm(gradients) > 0
    assert objective.count(silent) == 4
    assert objective.teacher_wants() == type(objective.teacher_wants())()
