"""The summary against arithmetic by hand, and the Markdown page with whatever a report may lack or hold."""

import html
import json
from typing import Any

import pytest

from app import quality
from tests.unit.evaluators.reports import qualities, regression_qualities, sample
from worker.evaluators import plan, report
from worker.evaluators.markdown import markdown
from worker.evaluators.page import render


def _models(**values: float) -> dict[str, dict[str, Any]]:
    shared = {"metric": "micro_f1", "ci95": [0.1, 0.9], "macro_f1": 0.5}
    return {who: {"quality": {**shared, "value": value}, "bytes": 100 * n} for n, (who, value) in enumerate(values.items(), 1)}


def test_ratios_are_of_what_is_served() -> None:
    models = _models(quantized=0.72, teacher=0.9, baseline=0.6, student=0.75)
    models["teacher"]["speed"] = {"throughput": 100.0, "latency_ms": {"p50": 9.0, "p99": 12.0}}
    models["quantized"]["speed"] = {"throughput": 1000.0, "latency_ms": {"p50": 1.0, "p99": 2.0}}
    found = report.summarize(models)
    assert found["metric"] == "micro_f1"
    assert [who for who in found if who in report.ORDER] == list(report.ORDER)
    assert found["teacher"]["quality"] == 0.9
    assert found["quantized"]["ci95"] == [0.1, 0.9]
    assert found["student"]["throughput"] is None
    assert found["retention"] == pytest.approx(0.8)
    assert found["speedup"] == pytest.approx(10)
    assert found["size_ratio"] == pytest.approx(0.5)
    assert found["gap_closed"] == pytest.approx(0.5)
    assert "gains" not in found
    # 100 requests a second for 10,000 s at 0.05 USD an hour
    assert found["teacher"]["cost_per_million"] == pytest.approx(10_000 / 3600 * 0.05)
    assert found["baseline"]["cost_per_million"] is None


def test_a_student_alone_has_a_summary_and_no_ratios() -> None:
    found = report.summarize(_models(student=0.5))
    assert found["student"]["quality"] == 0.5
    assert found["retention"] is found["speedup"] is found["size_ratio"] is found["gap_closed"] is None


@pytest.mark.parametrize("teacher", [0.0, -0.2])
def test_nothing_is_retained_of_a_teacher_that_knows_nothing(teacher: float) -> None:
    found = report.summarize(_models(teacher=teacher, student=0.5, baseline=0.4))
    assert (found["retention"], found["gap_closed"]) == (None, None)


def test_gains_are_paired_differences() -> None:
    found = qualities()
    gains = report.gains(found)
    assert [(g["of"], g["over"]) for g in gains] == [("student", "baseline"), ("quantized", "student"), ("quantized", "teacher")]
    expected = quality.difference(found["baseline"], found["student"])
    assert gains[0]["value"] == pytest.approx(found["student"].value - found["baseline"].value) == expected.value
    assert gains[0]["ci95"] == list(expected.ci95)
    assert gains[0]["significant"]
    without = report.gains({who: q for who, q in found.items() if who not in ("baseline", "quantized")})
    assert [(g["of"], g["over"]) for g in without] == [("student", "teacher")]


def test_the_report_is_json() -> None:
    json.dumps(sample(), allow_nan=False)


def test_every_part_of_the_page_is_there() -> None:
    page = markdown(sample())
    for line in (
        "# support intents",
        "| cost of a million requests, USD | 0.0637 | 0.0060 | 0.0060 | 0.0036 |",
        "## What each step gained (accuracy)",
        "## Per class (F1)",
        "## By length (accuracy)",
        "## INT8 against float",
        "- layers, student ← teacher: 0 ← 2, 1 ← 5",
        "- hidden size: 384 → 192",
        "- vocabulary: the teacher's, 30,522 tokens",
        "- parameters: 5,650,000",
        "- stage `output`: response + hard_label; 3 epochs, learning rate 5e-05, batch 32; 1,692 steps, 119 s, final loss 0.052",
        "- `not_exported`: No speed of the teacher: a 'strange' classifier.",
    ):
        assert line in page.splitlines(), line
    assert "layers uniform; student ← teacher 1 ← 3, 2 ← 6; projections layer 1 3 192 → 384; final loss" in page
    assert "layer.0.query is float, which takes the error on the calibration rows from 0.04 to 0.01." in page
    assert "temperature cosine 8 → 1; final loss" in page
    assert "weight 1, then 0.7 from 50% of the steps after 10% warm-up" in page
    assert "Distillation closed 72% of the gap" in page


def test_what_was_not_done_again_is_told_with_its_seconds() -> None:
    reused = {"teachers": {"teacher": {"steps": 0, "reused": True, "seconds_saved": 141.96}, "teacher-1": {"steps": 9}}}
    told = sample(**reused, labels={"asked": 1000, "reused": 9000, "seconds_saved": 1234.5})
    lines = ["teacher, fitted, which took 142.0 s", "the teacher's answers to 9,000 of 10,000 texts, which took 1,234.5 s"]
    page = markdown(told)
    for line in lines:
        assert f"- from the cache: {line}" in page.splitlines()
        assert line in html.unescape(render(told))
    older = sample(teachers={"teacher": {"reused": True}}, labels={"asked": 0, "reused": 10})
    page = markdown(older)
    assert "- from the cache: teacher, fitted" in page.splitlines(), "nothing is known of its time"
    assert "- from the cache: the teacher's answers to 10 of 10 texts" in page.splitlines()
    fresh = sample(teachers={"teacher": {"steps": 9}}, labels={"asked": 10, "reused": 0})
    assert "from the cache" not in markdown(fresh) + markdown(sample(labels={"asked": 10}))


def test_final_losses_are_the_last_of_the_curves() -> None:
    told = sample()
    told["curves"]["output"]["values"]["response/loss"][-1] = 0.123456
    told["curves"]["output"]["values"]["response/grad_norm"][-3:] = [0.0625, None, None]
    assert "final loss 0.1235, gradient norm 0.0625" in markdown(told)


def test_a_task_without_classes_has_no_table_of_them() -> None:
    page = markdown(sample(regression_qualities()))
    assert "of the teacher's Spearman's correlation" in page
    assert "| mean absolute error |" in page
    assert "## By length (absolute error)" in page
    assert "Per class" not in page
    assert "accuracy" not in page


def test_what_is_missing_is_left_out() -> None:
    found = qualities()
    told = sample({who: found[who] for who in ("baseline", "student")})
    for model in told["models"].values():
        model["speed"] = None
        model["by_length"] = []
    told["summary"] = report.summarize(told["models"])
    told |= {"quantization": {}, "training": {}, "warnings": []}
    del told["curves"]
    told["plan"] = {**told["plan"], "stages": None, "recipe": {"type": "response", "epochs": 3}}
    page = markdown(told)
    for absent in ("teacher's", "latency", "retained", "speed-up", "By length", "INT8", "Warnings", "nan", "None"):
        assert absent not in page.split("## How")[0], absent
    assert "- recipe: type response, epochs 3" in page


def test_what_users_wrote_stays_text() -> None:
    labels = ["<script>alert(1)</script>", "a|b", "line\nbreak", "[x](http://e.vil)"]
    told = sample(qualities(labels=labels), name="# `x` <img src=x>")
    told["warnings"] = [{"code": "c", "message": "<b>loud</b>\n# heading"}]
    page = markdown(told)
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>" not in page
    assert "| a\\|b |" in page
    assert "| line break |" in page
    assert "\\[x](http" in page
    assert "\n# heading" not in page


def test_two_objectives_of_a_kind_have_their_own_layers_and_curves() -> None:
    asked = {"type": "hidden_mse", "weight": 1.0}
    resolved = {"hidden_mse": {"layers": [[1, 2]]}, "hidden_mse-2": {"layers": [[2, 4]]}}
    curve = {"steps": [1], "values": {"hidden_mse/loss": [0.5], "hidden_mse-2/loss": [0.25]}}
    stage = {"name": "features", "objectives": [asked, asked], "epochs": 1, "learning_rate": 1e-3, "batch_size": 8}
    taught = {"name": "features", "steps": 1, "seconds": 1.0, "objectives": resolved}
    found = plan.stages({"plan": {"stages": [stage]}, "training": {"stages": [taught]}, "curves": {"features": curve}})
    (first, said), (second, also) = found[0].objectives
    assert (first, second) == ("hidden_mse", "hidden_mse-2")
    assert "1 ← 2" in said
    assert "final loss 0.5" in said
    assert "2 ← 4" in also
    assert "final loss 0.25" in also
