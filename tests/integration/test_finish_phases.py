"""Quantize, evaluate and package over a trained-looking work folder: what they leave behind, and what stops them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification

from app.domain import manifest
from app.domain.errors import DatasetInvalid, ExportMismatch, InvalidRequest, UnsupportedMethod
from app.domain.spec import JobSpec
from tests.fixtures.tiny import INTENTS, make_rows, make_tokenizer, tiny_config
from worker.exporters.onnx import Onnx
from worker.heads.base import Head
from worker.phases import evaluate, package, quantize
from worker.phases.base import Context, StopRequested
from worker.run import protocol

LABELS = sorted(INTENTS)
PHASES = (quantize, evaluate, package)


def _model(folder: Path, hidden: int, layers: int, seed: int) -> None:
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: n for n, label in enumerate(LABELS)}}
    config = tiny_config(tokenizer, layers=layers, hidden_size=hidden, **labels)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _context(workdir: Path, *, test_labels: bool = True, **changes: Any) -> Context:
    """A work folder after training, with a request that the phases can work on."""
    prepared = workdir / "prepared"
    prepared.mkdir(parents=True)
    counts = {"train": 20, "validation": 24, "test": 60}
    for seed, (name, count) in enumerate(counts.items()):
        rows = make_rows(workdir / "rows.jsonl", count, seed=seed)
        lines = [
            {"id": n, "text": r["text"], "label": LABELS.index(r["label"]) if test_labels or name != "test" else None}
            for n, r in enumerate(rows)
        ]
        (prepared / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = {"task": "text-classification", "problem": "single_label", "labels": LABELS, "pairs": False}
    data |= {"counts": counts, "skipped": 0, "unlabelled": 0, "test_is_validation": False, "max_length": 24}
    (prepared / "data.json").write_text(json.dumps(data))
    _model(workdir / "teacher", 32, 2, seed=1)
    _model(workdir / "student", 16, 1, seed=2)
    _model(workdir / "baseline", 16, 1, seed=3)
    told = {
        "student": {"layer_map": {"0": 1}, "hidden_size": [32, 16]},
        "stages": [{"name": "output", "steps": 1234, "seconds": 9.9}],
    }
    (workdir / "student" / "training.json").write_text(json.dumps(told))
    (workdir / "labelled").mkdir()
    (workdir / "labelled" / "labels.json").write_text(json.dumps({"members": [], "influence": [], "asked": 0}))
    spec = JobSpec.model_validate(
        {
            "name": "tiny intents",
            "task": "text-classification",
            "teacher": {"source": "local", "model": "tiny-teacher"},
            "student": {"init": "teacher_layers", "layers": 1, "hidden_size": 16},
            "data": {"training_file": "file-" + "0" * 26, "max_length": 24},
            "stages": [{"name": "output", "objectives": [{"type": "response", "temperature": 2.0}]}],
            "quantization": {"scheme": "int8_dynamic", "min_elements": 128},
            **changes,
        }
    )
    request = protocol.RunRequest(
        job_id="djob_1",
        attempt=1,
        spec=spec.resolved(),
        config_hash="sha256:1",
        workdir=str(workdir),
        cache_dir=str(workdir / "cache"),
        files={},
        formats={},
        teacher_dir=str(workdir / "teacher"),
        device="cpu",
    )
    return Context(request, spec, workdir, emit=EVENTS.append)


EVENTS: list[protocol.Event] = []


@pytest.fixture(autouse=True)
def _no_events() -> None:
    EVENTS.clear()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "_SPEED_SECONDS", 0.3)
    monkeypatch.setattr(evaluate.memory, "peak_memory", lambda *args: 1_000_000)


def _finish(context: Context) -> dict[str, Any]:
    for phase in PHASES:
        phase.run(context)
    found: dict[str, Any] = json.loads(context.output("result.json").read_text())
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One whole run, with the real measurements."""
    context = _context(tmp_path_factory.mktemp("work"))
    return context.workdir, _finish(context)


def test_the_result_is_a_done_event_whose_files_exist(finished: tuple[Path, dict[str, Any]]) -> None:
    workdir, result = finished
    done = protocol.DoneEvent.model_validate(result)
    assert manifest.verify(workdir / done.model_dir, done.digest)
    assert all((workdir / name).is_file() for name in done.reports)
    assert done.params == sum(
        p.numel() for p in AutoModelForSequenceClassification.from_pretrained(workdir / "student").parameters()
    )
    assert done.usage["training_steps"] == 1234
    assert str(workdir) not in json.dumps(result)
    assert not (workdir / ".measuring").exists()


def test_the_summary_has_what_the_api_shows(finished: tuple[Path, dict[str, Any]]) -> None:
    workdir, result = finished
    summary = result["summary"]
    assert summary["metric"] == "accuracy"
    for who in ("teacher", "baseline", "student", "quantized"):
        block = summary[who]
        assert 0 <= block["ci95"][0] <= block["quality"] <= block["ci95"][1] <= 1
        assert block["throughput"] > 0
        assert 0 < block["latency_ms"]["p50"] <= block["latency_ms"]["p99"]
        assert block["peak_memory_bytes"] is None or block["peak_memory_bytes"] > 0
    assert summary["teacher"]["bytes"] == (workdir / "teacher" / "model.safetensors").stat().st_size
    assert summary["quantized"]["bytes"] == (workdir / "package" / "onnx" / "model_int8.onnx").stat().st_size
    assert summary["retention"] == pytest.approx(summary["quantized"]["quality"] / summary["teacher"]["quality"])
    assert summary["speedup"] == pytest.approx(summary["quantized"]["throughput"] / summary["teacher"]["throughput"])
    assert summary["size_ratio"] == pytest.approx(summary["quantized"]["bytes"] / summary["teacher"]["bytes"])
    assert summary["teacher"]["agreement"] == 1.0


def test_accuracy_is_that_of_the_trained_model(finished: tuple[Path, dict[str, Any]]) -> None:
    workdir, result = finished
    rows = [json.loads(line) for line in (workdir / "prepared" / "test.jsonl").read_text().splitlines()]
    for who in ("teacher", "student"):
        model = AutoModelForSequenceClassification.from_pretrained(workdir / who).eval()
        tokenizer = AutoTokenizer.from_pretrained(workdir / who)
        hits = 0
        for row in rows:
            with torch.inference_mode():
                logits = model(**tokenizer(row["text"], truncation=True, max_length=24, return_tensors="pt")).logits
            hits += int(logits.argmax()) == row["label"]
        assert result["summary"][who]["quality"] == pytest.approx(hits / len(rows))


def test_the_report_page_names_every_model_and_class(finished: tuple[Path, dict[str, Any]]) -> None:
    page = (finished[0] / "evaluation" / "report.md").read_text()
    for text in (
        "teacher",
        "student, not distilled",
        "student, INT8",
        *LABELS,
        "p50 / p99",
        "INT8 against float",
        ":tiny-teacher`",
    ):
        assert text in page
    for line in ("- layers, student ← teacher: 0 ← 1", "- hidden size: 32 → 16", "- stage `output`: response; 3 epochs"):
        assert line in page
    assert "1,234 steps, 10 s" in page
    assert "nan" not in page.lower()


def test_parity_is_recorded(finished: tuple[Path, dict[str, Any]]) -> None:
    found = json.loads((finished[0] / "quantized" / "quantization.json").read_text())
    assert found["float_parity"]["max_abs_logit_diff"] < 1e-4
    assert found["parity"]["min_cosine"] > 0.98
    assert found["parity"]["batch_drift"] < 1e-4
    assert found["rows"] == 24


def test_the_package_loads_with_plain_transformers(finished: tuple[Path, dict[str, Any]]) -> None:
    folder = finished[0] / "package"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder)("lost card")["input_ids"]
    assert [model.config.id2label[n] for n in range(5)] == LABELS
    card = json.loads((folder / "retort.json").read_text())
    assert card["labels"] == LABELS
    assert (card["embedding_dim"], card["max_length"], card["kind"]) == (16, 24, "student")
    assert [b["precision"] for b in card["backends"]] == ["int8", "float32"]


def test_the_package_answers_without_torch_or_transformers(finished: tuple[Path, dict[str, Any]]) -> None:
    folder = finished[0] / "package"
    code = f"""
import json, sys
import numpy as np, onnxruntime
from tokenizers import Tokenizer
folder = {str(folder)!r}
card = json.load(open(folder + "/retort.json"))
tokens = Tokenizer.from_file(folder + "/tokenizer.json")
tokens.no_padding()
session = onnxruntime.InferenceSession(folder + "/" + card["backends"][0]["file"])
ids = np.array([tokens.encode("my card was stolen please help").ids])
logits, vector = session.run(["logits", "embedding"], {{"input_ids": ids, "attention_mask": np.ones_like(ids)}})
assert not {{"torch", "transformers"}} & set(sys.modules)
print(json.dumps([logits[0].tolist(), float((vector[0] ** 2).sum()), vector.shape[1]]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    logits, norm, width = json.loads(done.stdout)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        exact = model(**tokenizer("my card was stolen please help", return_tensors="pt")).logits[0].numpy()
    assert np.abs(exact - logits).max() < 0.05
    assert (norm, width) == (pytest.approx(1, abs=1e-4), 16)


@pytest.mark.usefixtures("quick")
def test_the_digest_does_not_depend_on_place_or_time(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    again = _finish(_context(tmp_path / "elsewhere"))
    assert again["digest"] == finished[1]["digest"]


@pytest.mark.usefixtures("quick")
def test_progress_rises_and_the_summary_is_emitted(tmp_path: Path) -> None:
    _finish(_context(tmp_path / "w"))
    percents = [e.percent for e in EVENTS if isinstance(e, protocol.ProgressEvent)]
    assert len(percents) > 8
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert sum(isinstance(e, protocol.EvaluationEvent) for e in EVENTS) == 1


@pytest.mark.usefixtures("quick")
def test_max_items_bounds_the_evaluation(tmp_path: Path) -> None:
    context = _context(tmp_path / "w", evaluation={"max_items": 17})
    _finish(context)
    report = json.loads((context.output("evaluation") / "report.json").read_text())
    assert report["rows"] == 17
    assert sum(c["support"] for c in report["models"]["teacher"]["quality"]["per_class"]) == 17


@pytest.mark.usefixtures("quick")
def test_without_quantization_and_baseline_the_float_student_is_compared(tmp_path: Path) -> None:
    context = _context(tmp_path / "w", quantization={"scheme": "none"})
    (context.output("baseline") / "config.json").unlink()
    summary = _finish(context)["summary"]
    assert "quantized" not in summary
    assert "baseline" not in summary
    assert summary["retention"] == pytest.approx(summary["student"]["quality"] / summary["teacher"]["quality"])
    card = json.loads((context.output("package") / "retort.json").read_text())
    assert [b["file"] for b in card["backends"]] == ["onnx/model.onnx"]
    assert "INT8" not in (context.output("evaluation") / "report.md").read_text().split("## How")[0]


@pytest.mark.usefixtures("quick")
def test_exports_decide_what_is_packaged(tmp_path: Path) -> None:
    context = _context(tmp_path / "w", exports=[])
    _finish(context)
    files = manifest.read(context.output("package"))["files"]
    assert "onnx/model_int8.onnx" in files
    assert "onnx/model.onnx" not in files
    assert "model.safetensors" not in files
    assert {"config.json", "tokenizer.json"} <= files.keys()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("tables", "precision"), [("int4", "int4"), ("int8", "int8")])
def test_the_graph_is_called_what_the_scheme_made_of_it(tmp_path: Path, tables: str, precision: str) -> None:
    """And an artifact's card names it, so that it is what is served and measured."""
    scheme = {"scheme": "int4_weight_only", "min_elements": 128, "tables": tables}
    context = _context(tmp_path / "w", quantization=scheme)
    summary = _finish(context)["summary"]
    card = json.loads((context.output("package") / "retort.json").read_text())
    first = {"backend": "onnx_runtime", "file": f"onnx/model_{precision}.onnx", "precision": precision}
    assert card["backends"] == [first, {"backend": "onnx_runtime", "file": "onnx/model.onnx", "precision": "float32"}]
    assert summary["quantized"]["bytes"] == (context.output("package") / first["file"]).stat().st_size
    assert {p.name for p in (context.output("package") / "onnx").iterdir()} == {f"model_{precision}.onnx", "model.onnx"}
    for page in ("report.md", "report.html"):
        text = (context.output("evaluation") / page).read_text()
        assert f"{precision.upper()} against float" in text
        assert f"student, {precision.upper()}" in text
        assert precision == "int8" or "INT8" not in text
    if precision == "int8":
        return
    told = context.output("quantized") / "quantization.json"
    earlier = {k: v for k, v in json.loads(told.read_text()).items() if k not in ("file", "precision")}
    told.write_text(json.dumps(earlier))  # a job that an earlier release had quantized
    assert quantize.graph_of(context) == (context.output("quantized") / "model_int8.onnx", "int8")


@pytest.mark.usefixtures("quick")
def test_a_package_that_nothing_could_serve_is_refused(tmp_path: Path) -> None:
    context = _context(tmp_path / "w", exports=["safetensors"], quantization={"scheme": "none"})
    with pytest.raises(InvalidRequest) as caught:
        _finish(context)
    assert caught.value.param == "exports"
    assert not (context.output("package") / manifest.NAME).exists()


def test_an_export_that_says_something_else_stops_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Onnx.export

    def slightly_off(self: Onnx, model_dir: Path, out_dir: Path, head: Head) -> Path:
        path = honest(self, model_dir, out_dir, head)
        model = onnx.load(path)
        for tensor in model.graph.initializer:
            if "classifier.bias" in tensor.name:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(0.005), tensor.name))
        onnx.save(model, path)
        return path

    monkeypatch.setattr(Onnx, "export", slightly_off)
    context = _context(tmp_path / "w")
    with pytest.raises(ExportMismatch, match=r"differ from the trained model's by 0\.005"):
        quantize.run(context)
    assert not context.sealed("quantized")


@pytest.mark.usefixtures("quick")
def test_a_teacher_that_cannot_be_exported_has_quality_but_no_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Onnx.export

    def refuse(self: Onnx, model_dir: Path, out_dir: Path, head: Head) -> Path:
        if model_dir.name == "teacher":
            raise UnsupportedMethod("A 'strange' classifier could not be exported to ONNX: no")
        return honest(self, model_dir, out_dir, head)

    monkeypatch.setattr(Onnx, "export", refuse)
    context = _context(tmp_path / "w")
    summary = _finish(context)["summary"]
    assert summary["teacher"]["throughput"] is None
    assert summary["speedup"] is None
    assert summary["retention"] > 0
    assert [w["code"] for w in context.warnings] == ["not_exported"]
    assert "`not_exported`" in (context.output("evaluation") / "report.md").read_text()


def test_no_labelled_test_row_is_the_data_s_fault(tmp_path: Path) -> None:
    context = _context(tmp_path / "w", test_labels=False)
    quantize.run(context)
    with pytest.raises(DatasetInvalid) as caught:
        evaluate.run(context)
    assert caught.value.param == "data.test_file"


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.usefixtures("quick")
def test_a_stop_is_heard_in_every_phase_and_nothing_is_sealed(phase: Any, tmp_path: Path) -> None:
    context = _context(tmp_path / "w")
    for earlier in PHASES[: PHASES.index(phase)]:
        earlier.run(context)

    def stop() -> None:
        raise StopRequested(checkpoint=False)

    context.stop = stop
    with pytest.raises(StopRequested):
        phase.run(context)
    folder = {quantize: "quantized", evaluate: "evaluation", package: "package"}[phase]
    assert not context.sealed(folder)
    assert not (tmp_path / "w" / ".measuring").exists()
    context.stop = lambda: None
    phase.run(context)
    assert context.sealed(folder)
