"""The loop on a real two-layer model: exact accumulation, exact vocabulary, exact resume, and no update on nonsense."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BertForSequenceClassification, PreTrainedModel

from app.domain.errors import LossDiverged, ObjectivesOutOfBalance, SilentObjective
from app.domain.schedule import Schedule
from worker.answers.ensemble import blended
from worker.heads.base import About
from worker.heads.text_classification import TextClassification
from worker.objectives.base import Objective
from worker.objectives.hard_label import HardLabel
from worker.objectives.hidden_mse import HiddenMSE
from worker.objectives.response import Response
from worker.phases.base import StopRequested
from worker.rows import Batch, Rows, order
from worker.signals import Shape, Signals, Wants
from worker.teachers.base import Source
from worker.teachers.ema import Ema
from worker.teachers.main import Main
from worker.teachers.mutual import Mutual
from worker.teachers.previous import Previous
from worker.training.determinism import seed_everything
from worker.training.loop import Lessons, fit
from worker.training.plan import Place, Plan
from worker.training.vocabulary import CompactVocabulary

HEAD = TextClassification(About("text-classification", "single_label", ("a", "b", "c", "d", "e"), 24))
CPU = torch.device("cpu")


def model(folder: Path, dropout: float = 0.0) -> PreTrainedModel:
    torch.manual_seed(0)
    made: PreTrainedModel = BertForSequenceClassification.from_pretrained(
        folder, num_labels=5, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
    )
    return made


def place(folder: Path, **changes: Any) -> Place:
    def nothing(*_: object) -> None:
        return None

    base = Place(folder, [], "sha256:x", torch.device("cpu"), "no", nothing, nothing, nothing, nothing)
    return replace(base, **changes)


def taught(train: Rows, validation: Rows, teacher_NC: Tensor | None = None, source: Source | None = None, **more: Any) -> Lessons:
    """`teacher_NC`: what the job's teacher says of the rows of `train`."""

    def main(batch: Batch, wants: Wants) -> Signals:
        assert teacher_NC is not None
        assert wants.logits
        return Signals(logits_NC=teacher_NC[batch.index_B])

    if teacher_NC is None:
        return Lessons(train, validation, source, **more)
    return Lessons(train, validation, source or Main(), main=main, main_shape=Shape(2, 32, 4, 32, 5), **more)


PLAN = Plan("s", [(HardLabel(), Schedule(start=1.0))], epochs=2, learning_rate=1e-3, batch_size=12, seed=5)


def weights(m: PreTrainedModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in m.state_dict().items()}


def test_the_order_of_rows_is_a_function_of_seed_and_epoch(rows: Rows) -> None:
    assert order(rows, 8, 1, 0) == order(rows, 8, 1, 0)
    assert order(rows, 8, 1, 0) != order(rows, 8, 1, 1) != order(rows, 8, 2, 1)
    assert sorted(i for batch in order(rows, 8, 1, 3) for i in batch) == list(range(len(rows)))


@pytest.mark.parametrize("cut", [{"gradient_accumulation": 2}, {"divisor": 2}, {"divisor": 5}])
def test_how_a_window_is_cut_changes_no_gradient(folder: Path, rows: Rows, tmp_path: Path, cut: dict[str, int]) -> None:
    """One step over all rows equals one step over the same rows in pieces, though half of them have no label."""
    mixed = Rows(rows.ids, rows.tokens, [y if i % 2 else -100 for i, y in enumerate(rows.labels)], rows.pad_id)
    teacher_NC = torch.randn(60, 5, generator=torch.Generator().manual_seed(1))
    objectives = [(Response(temperature=2.0), Schedule(start=0.7)), (HardLabel(), Schedule(start=0.3))]
    plan = replace(PLAN, objectives=objectives, epochs=1, batch_size=60, warmup_ratio=0.0, max_steps=1)
    seen: list[dict[str, float]] = []

    def first_step(plan: Plan, divisor: int = 1) -> dict[str, float]:
        where = place(tmp_path / str(len(seen)), micro_batch_divisor=divisor, on_metrics=lambda _, v: seen.append(v))
        fit(model(folder), HEAD, plan, taught(mixed, mixed.only([]), teacher_NC), where)
        return seen[-1]

    whole = first_step(plan)
    divisor = cut.get("divisor", 1)
    cut_plan = replace(plan, batch_size=30, gradient_accumulation=2) if "gradient_accumulation" in cut else plan
    pieces = first_step(cut_plan, divisor)
    for name in ("loss", "grad_norm", "response/loss", "hard_label/loss"):
        assert pieces[name] == pytest.approx(whole[name], rel=2e-5), name


def test_a_compact_vocabulary_changes_nothing(folder: Path, rows: Rows) -> None:
    """Same losses and, on the rows in use, the same table as training the full one; the others stay put."""

    def trained(compact: bool) -> tuple[list[float], PreTrainedModel]:
        m = model(folder)
        vocabulary = CompactVocabulary(m, rows.used_tokens() | {rows.pad_id}) if compact else None
        optimizer = torch.optim.AdamW(m.parameters(), lr=1e-2, weight_decay=0.0)
        losses = []
        for _ in range(5):
            longest = max(len(t) for t in rows.tokens)
            ids = torch.tensor([t + [rows.pad_id] * (longest - len(t)) for t in rows.tokens])
            mask = torch.tensor([[1] * len(t) + [0] * (longest - len(t)) for t in rows.tokens])
            inputs = vocabulary.remap(ids) if vocabulary else ids
            loss = m(input_ids=inputs, attention_mask=mask, labels=torch.tensor(rows.labels)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        if vocabulary:
            vocabulary.restore()
        return losses, m

    (full_losses, full), (losses, compact) = trained(False), trained(True)
    assert losses == pytest.approx(full_losses, rel=1e-6)
    torch.testing.assert_close(compact.state_dict(), full.state_dict(), rtol=1e-4, atol=1e-6)
    untouched = sorted(set(range(full.config.vocab_size)) - rows.used_tokens() - {rows.pad_id})
    assert len(untouched) > 20
    original = model(folder).get_input_embeddings()
    assert isinstance(original, nn.Embedding)
    torch.testing.assert_close(compact.get_input_embeddings().weight[untouched], original.weight[untouched], rtol=0, atol=0)


def test_an_unannounced_token_is_named(folder: Path) -> None:
    with pytest.raises(KeyError, match="token 9"):
        CompactVocabulary(model(folder), {1, 2}).remap(torch.tensor([[1, 9]]))


@pytest.mark.parametrize("stop_at", [1, 5, 7])
def test_stop_and_resume_give_the_same_bits(folder: Path, rows: Rows, tmp_path: Path, stop_at: int) -> None:
    plan = replace(PLAN, epochs=3, patience=5)
    seed_everything(1, True)
    undisturbed = model(folder, dropout=0.1)
    seed_everything(2, True)
    outcome = fit(undisturbed, HEAD, plan, taught(rows, rows), place(tmp_path / "a"))

    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == stop_at + 1:
            raise StopRequested(checkpoint=True)

    resumed = model(folder, dropout=0.1)
    seed_everything(2, True)
    with pytest.raises(StopRequested):
        fit(resumed, HEAD, plan, taught(rows, rows), place(tmp_path / "b", stop=stop))
    again = model(folder, dropout=0.1)
    seed_everything(99, True)  # the random state comes from the checkpoint, not from here
    second = fit(again, HEAD, plan, taught(rows, rows), place(tmp_path / "c", earlier=[tmp_path / "b"]))
    assert second.steps == outcome.steps == 15
    assert second.final_loss == outcome.final_loss
    assert second.scores == outcome.scores
    for name, value in weights(undisturbed).items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_damaged_checkpoint_is_passed_over(folder: Path, rows: Rows, tmp_path: Path) -> None:
    want = model(folder)
    fit(want, HEAD, PLAN, taught(rows, rows), place(tmp_path / "a", every_steps=3))
    newest = sorted((tmp_path / "a").glob("step-*"))[-1]
    (newest / "model.safetensors").write_bytes(b"\0" * 100)
    got = model(folder)
    fit(got, HEAD, PLAN, taught(rows, rows), place(tmp_path / "b", earlier=[tmp_path / "a"]))
    for name, value in weights(want).items():
        assert torch.equal(value, got.state_dict()[name]), name


class Poison(Objective):
    """Turns NaN at a chosen call."""

    name = "poison"
    needs = frozenset({"labels"})
    calls = 0

    def student_wants(self) -> Wants:
        return Wants(logits=True)

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        assert student.logits_NC is not None
        Poison.calls += 1
        return student.logits_NC.sum() * (float("nan") if Poison.calls == 3 else 1.0)


class Mute(Objective):
    """Has a value but no gradient."""

    name = "mute"
    needs = frozenset({"labels"})

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        return student.tensors()[0].sum() * 0.0 + 1.0


def test_a_loss_that_is_not_finite_stops_before_the_update(folder: Path, rows: Rows, tmp_path: Path) -> None:
    Poison.calls = 0
    m = model(folder)
    plan = replace(PLAN, objectives=[(Poison(), Schedule(start=1.0))], warmup_ratio=0.0)
    with pytest.raises(LossDiverged, match="step 2"):
        fit(m, HEAD, plan, taught(rows, rows), place(tmp_path / "x", every_steps=1))
    last = sorted((tmp_path / "x").glob("step-*"))[-1]
    assert last.name == "step-000002"
    assert all(bool(value.isfinite().all()) for value in m.state_dict().values())


def test_a_weighted_objective_without_gradient_is_refused(folder: Path, rows: Rows, tmp_path: Path) -> None:
    plan = replace(PLAN, objectives=[(HardLabel(), Schedule(start=1.0)), (Mute(), Schedule(start=0.5))])
    with pytest.raises(SilentObjective, match="'mute' has a weight but no gradient"):
        fit(model(folder), HEAD, plan, taught(rows, rows), place(tmp_path / "x"))


def test_micro_batches_without_labels_do_not_make_an_objective_silent(folder: Path, rows: Rows, tmp_path: Path) -> None:
    """One labelled row in a window of six micro-batches: most micro-batches give hard_label no gradient."""
    few = Rows(rows.ids, rows.tokens, [y if i == 0 else -100 for i, y in enumerate(rows.labels)], rows.pad_id)
    objectives = [(Response(temperature=2.0), Schedule(start=0.5)), (HardLabel(), Schedule(start=0.5))]
    for seed in range(4):
        plan = replace(PLAN, objectives=objectives, epochs=4, batch_size=10, gradient_accumulation=6, seed=seed)
        seen: list[float] = []
        where = place(tmp_path / str(seed), on_metrics=lambda _, v, seen=seen: seen.append(v.get("hard_label/grad_norm", 0.0)))
        fit(model(folder), HEAD, plan, taught(few, few.only([]), torch.randn(60, 5)), where)
        assert len(seen) == 4
        assert all(norm > 0 for norm in seen[:3])


def test_head_only_leaves_the_encoder_alone(folder: Path, rows: Rows, tmp_path: Path) -> None:
    before, m = weights(model(folder)), model(folder)
    fit(m, HEAD, replace(PLAN, train="head"), taught(rows, rows), place(tmp_path / "x"))
    changed = {name for name, value in weights(m).items() if not torch.equal(value, before[name])}
    assert changed == {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias"}


def test_early_stopping_keeps_the_best_weights(folder: Path, rows: Rows, tmp_path: Path) -> None:
    """Against labels that are all wrong, learning makes every epoch worse than an early one."""
    m = model(folder)
    wrong = Rows(rows.ids, rows.tokens, [(y + 1) % 5 for y in rows.labels], rows.pad_id)
    outcome = fit(m, HEAD, replace(PLAN, epochs=40, learning_rate=3e-3, patience=2), taught(rows, wrong), place(tmp_path / "x"))
    assert outcome.best_score == max(outcome.scores)
    assert len(outcome.scores) < 40
    assert outcome.best_score in outcome.scores[:-2]
    answered = HEAD.predict(m, wrong, CPU).logits.argmax(-1)
    assert float((answered == np.array(wrong.labels)).mean()) == pytest.approx(outcome.best_score, abs=1e-6)


def test_schedules_are_logged_every_step(folder: Path, rows: Rows, tmp_path: Path) -> None:
    seen: dict[int, dict[str, float]] = {}
    cooling = Response(temperature={"schedule": "linear", "start": 8, "end": 1})
    fading = Schedule(schedule="linear", start=1.0, end=0.0)
    plan = replace(PLAN, objectives=[(cooling, fading), (HardLabel(), Schedule(start=0.5))])
    lessons = taught(rows, rows, torch.randn(60, 5))
    fit(model(folder), HEAD, plan, lessons, place(tmp_path / "x", on_metrics=lambda s, v: seen.setdefault(s, v)))
    steps = [s for s, v in sorted(seen.items()) if "response/temperature" in v]
    assert steps == list(range(1, 11))
    assert [seen[s]["response/temperature"] for s in (1, 6)] == pytest.approx([8.0, 8.0 - 7 * 0.5])
    assert [seen[s]["response/weight"] for s in (1, 6)] == pytest.approx([1.0, 0.5])
    assert all(seen[s]["grad_norm"] > 0 for s in steps)


def interrupted(folder: Path, plan: Plan, lessons: Lessons, tmp_path: Path, after: int) -> PreTrainedModel:
    """The student of a run that was stopped after some steps and went on in a new process' worth of objects."""
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == after + 1:
            raise StopRequested(checkpoint=True)

    seed_everything(2, True)
    with pytest.raises(StopRequested):
        fit(model(folder), HEAD, plan, lessons, place(tmp_path / "b", stop=stop))
    again = model(folder)
    seed_everything(2, True)  # what is drawn before training is drawn again; what is drawn in it comes from the checkpoint
    fit(again, HEAD, plan, lessons, place(tmp_path / "c", earlier=[tmp_path / "b"]))
    return again


def own_teacher(source: Source, folder: Path, rows: Rows) -> Lessons:
    return Lessons(rows, rows, source, previous=model(folder) if isinstance(source, Previous) else None)


@pytest.mark.parametrize("source", [Ema(momentum=0.9), Mutual(peers=2), Previous()], ids=lambda s: s.name)
def test_whoever_teaches_a_resume_gives_the_same_bits(source: Source, folder: Path, rows: Rows, tmp_path: Path) -> None:
    objectives = [(Response(temperature=1.0), Schedule(start=1.0)), (HardLabel(), Schedule(start=1.0))]
    plan = replace(PLAN, objectives=objectives, epochs=2)
    seed_everything(2, True)
    undisturbed = model(folder)
    fit(undisturbed, HEAD, plan, own_teacher(type(source)(**source.params.model_dump()), folder, rows), place(tmp_path / "a"))
    again = interrupted(folder, plan, own_teacher(source, folder, rows), tmp_path, 4)
    for name, value in weights(undisturbed).items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_projections_are_trained_and_resumed_with_the_student(folder: Path, rows: Rows, tmp_path: Path) -> None:
    wide = 48

    def states(batch: Batch, wants: Wants) -> Signals:
        generator = torch.Generator().manual_seed(int(batch.index_B.sum()))
        return Signals(hidden={i: torch.randn(*batch.input_ids_BT.shape, wide, generator=generator) for i in wants.hidden})

    def lessons() -> Lessons:
        return Lessons(rows, rows, Main(), main=states, main_shape=Shape(4, wide, 4, wide, 5))

    def plan() -> Plan:
        return replace(PLAN, objectives=[(HiddenMSE(), Schedule(start=1.0))], epochs=2)

    seed_everything(2, True)
    undisturbed, first = model(folder), plan()
    fit(undisturbed, HEAD, first, lessons(), place(tmp_path / "a"))
    projections = first.objectives[0][0].projections
    assert projections.shapes()
    second = plan()
    again = interrupted(folder, second, lessons(), tmp_path, 4)
    assert weights(again).keys() == weights(undisturbed).keys(), "projections are not in the student"
    for name, value in weights(undisturbed).items():
        assert torch.equal(value, again.state_dict()[name]), name
    for name, value in projections.state_dict().items():
        assert torch.equal(value, second.objectives[0][0].projections.state_dict()[name]), name


def test_frozen_and_chosen_parameters(folder: Path, rows: Rows, tmp_path: Path) -> None:
    before, m = weights(model(folder)), model(folder)
    plan = replace(PLAN, train=[r"encoder\.layer\.1\.", "classifier"], frozen=[r"attention"])
    fit(m, HEAD, plan, taught(rows, rows), place(tmp_path / "x"))
    changed = {name for name, value in weights(m).items() if not torch.equal(value, before[name])}
    assert changed
    assert all("layer.1." in name or "classifier" in name for name in changed)
    assert not any("attention" in name for name in changed)


def test_an_objective_that_drowns_another_is_refused_unless_asked_for(folder: Path, rows: Rows, tmp_path: Path) -> None:
    objectives = [(Response(temperature=1.0), Schedule(start=1e6)), (HardLabel(), Schedule(start=1.0))]
    plan = replace(PLAN, objectives=objectives)
    lessons = taught(rows, rows, torch.randn(60, 5))
    with pytest.raises(ObjectivesOutOfBalance, match="'response' is"):
        fit(model(folder), HEAD, plan, lessons, place(tmp_path / "x"))
    fit(model(folder), HEAD, replace(plan, balance=False), lessons, place(tmp_path / "y"))


def test_mixed_rows_are_taught_by_the_teacher_alone(folder: Path, rows: Rows, tmp_path: Path) -> None:
    """Mix-up adds micro-batches without labels: the hard labels' loss of the first step stays as it was."""
    objectives = [(Response(temperature=1.0), Schedule(start=1.0)), (HardLabel(), Schedule(start=1.0))]
    first: list[dict[str, float]] = []
    for mixup in (None, 0.4):
        seen: list[dict[str, float]] = []
        plan = replace(PLAN, objectives=objectives, mixup=mixup, max_steps=1)
        where = place(tmp_path / str(mixup), on_metrics=lambda _, v, seen=seen: seen.append(v))
        source = BlendingMain(torch.randn(60, 5, generator=torch.Generator().manual_seed(1)))
        fit(model(folder), HEAD, plan, Lessons(rows, rows.only([]), source), where)
        first.append(seen[0])
    assert first[0]["hard_label/loss"] == pytest.approx(first[1]["hard_label/loss"], rel=1e-6)
    assert first[0]["response/loss"] != pytest.approx(first[1]["response/loss"], rel=1e-3)


class BlendingMain(Main):
    def __init__(self, teacher_NC: Tensor) -> None:
        super().__init__()
        self.teacher_NC = teacher_NC

    def signals(self, batch: Batch, wants: Wants) -> Signals:
        return (
            blended(Signals(logits_NC=self.teacher_NC[batch.index_B]), batch)
            if batch.mix
            else Signals(logits_NC=self.teacher_NC[batch.index_B])
        )
