"""The artifact: one folder that transformers, ONNX Runtime and our serving can load. Same model, same bytes, same digest."""

import json
import os
import platform
import shutil
from collections import Counter
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from app.domain.errors import InvalidRequest
from worker.exporters.graph import answering
from worker.exporters.onnx import inputs_of, outputs_of
from worker.exporters.safetensors import Safetensors, export_tokenizer
from worker.heads.base import Head
from worker.phases import runs
from worker.phases.base import Context
from worker.phases.quantize import graph_of

NAME = "packaging"
_PIPELINES = {
    "text-classification": "text-classification",
    "token-classification": "token-classification",
    "embedding": "sentence-similarity",
    "ranking": "text-ranking",
    "masked-lm": "fill-mask",
}
_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "onnx", "onnxruntime", "numpy")


def run(context: Context) -> None:
    """Fills package/ (the artifact) and writes result.json, the fields of DoneEvent."""
    out = context.fresh("package")
    report = json.loads((context.output("evaluation") / "report.json").read_text(encoding="utf-8"))
    data = json.loads((context.output("prepared") / "data.json").read_text(encoding="utf-8"))
    head = runs.head(context, "student")
    _weights(context, out, head)
    context.stop()
    context.advance(NAME, 0.4)
    backends = _graphs(context, out, head)
    config = json.loads((out / "config.json").read_text())
    inputs = inputs_of(head, SimpleNamespace(**config))
    embeds = "embedding" in outputs_of(head)
    card = {
        "format": 1,
        "kind": "student",
        "task": context.spec.task,
        "problem": data["problem"],
        "labels": data["labels"],
        "pairs": data["pairs"] or "token_type_ids" in inputs or (context.spec.task == "ranking" and not embeds),
        "inputs": inputs,
        "scorer": head.about.scorer if context.spec.task == "ranking" else None,
        "max_length": data["max_length"],
        "embedding_dim": config.get("hidden_size", config.get("dim")) if embeds else None,
        "pooling": "mean",
        "normalize": True,
        "backends": backends,
    }
    (out / "retort.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "README.md").write_text(_model_card(context, report, card, head), encoding="utf-8")
    context.stop()
    manifest = context.seal("package")
    context.advance(NAME, 1.0)
    _write_result(context, manifest["digest"], report, data)


def _weights(context: Context, out: Path, head: Head) -> None:
    student = context.output("student")
    if "safetensors" in context.spec.exports:
        Safetensors().export(student, out, head)
        if (student / "adapter").is_dir():
            shutil.copytree(student / "adapter", out / "adapter")
    else:
        export_tokenizer(student, out)


def _graphs(context: Context, out: Path, head: Head) -> list[dict[str, Any]]:
    """Copies the ONNX graphs; the first entry is what serving prefers: of a masked language model one without scores of words."""
    quantized = graph_of(context)
    wanted = [quantized] if quantized is not None else []
    if "onnx" in context.spec.exports:
        wanted.append((context.output("quantized") / "model.onnx", "float32"))
    if not wanted:
        raise InvalidRequest(
            "Nothing of this student could be served: it is neither quantized nor exported to ONNX.",
            param="exports",
            hint="Add 'onnx' to exports, or choose a quantization scheme.",
        )
    (out / "onnx").mkdir()
    for graph, _ in wanted:
        shutil.copyfile(graph, out / "onnx" / graph.name)
        weights = graph.with_name(f"{graph.name}.data")  # beside graphs of 2 GiB and more
        if weights.is_file():
            shutil.copyfile(weights, out / "onnx" / weights.name)
    found = [{"backend": "onnx_runtime", "file": f"onnx/{graph.name}", "precision": precision} for graph, precision in wanted]
    if head.about.task != "masked-lm":
        return found
    graph = wanted[0][0]
    vectors = out / "onnx" / f"{graph.stem}_vectors.onnx"
    answering(graph, ["embedding"], vectors)
    return [{**found[0], "file": f"onnx/{vectors.name}", "outputs": ["embedding"]}, *found]


def _model_card(context: Context, report: dict[str, Any], card: dict[str, Any], head: Head) -> str:
    """No timings, times or attempt numbers: the artifact's digest must not depend on them."""
    served = "quantized" if "quantized" in report["models"] else "student"
    reached = {who: f"{report['models'][who]['quality']['value']:.4f}" for who in ("teacher", served)}
    metric = report["summary"]["metric"].replace("_", " ")
    over = f" over {len(card['labels'])} labels" if card["labels"] else ""
    teacher = context.spec.teacher
    lines = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {_PIPELINES[context.spec.task]}",
        "tags: [distillation]",
        "---",
        f"# {context.spec.output.model_name or context.spec.name}",
        "",
        f"A student of `{teacher.model}`, distilled by Retort for {card['task']}{over}.",
        "",
        f"{metric[:1].upper()}{metric[1:]} on {report['rows']:,} test rows: {reached[served]} (teacher {reached['teacher']}).",
        f"Texts are cut at {card['max_length']} tokens."
        + (
            f" `embedding` is the mean of the last hidden states, {card['embedding_dim']} numbers, of unit length."
            if card["embedding_dim"]
            else ""
        ),
        "",
        *(["Labels: " + ", ".join(f"`{label}`" for label in card["labels"]), ""] if card["labels"] else []),
        "## Files",
        "",
        "- `config.json`, `model.safetensors`, `tokenizer.json`: transformers' `from_pretrained`",
        *(
            f"- `{b['file']}` ({b['precision']}): ONNX Runtime; in {_quoted(card['inputs'])}; "
            f"out {_quoted(b.get('outputs', outputs_of(head)))}"
            for b in card["backends"]
        ),
        "- `retort.json`: labels, cut and preferred files, for serving",
        "",
    ]
    return "\n".join(lines)


def _quoted(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _write_result(context: Context, digest: str, report: dict[str, Any], data: dict[str, Any]) -> None:
    result = {
        "model_dir": "package",
        "digest": digest,
        "reports": ["evaluation/report.json", "evaluation/report.md", "evaluation/report.html"],
        "summary": report["summary"],
        "params": report["models"]["student"]["params"],
        "usage": {
            "training_steps": sum(s["steps"] for s in report["training"].get("stages", [])),
            "rows": data["counts"],
            **_asked_of_endpoints(report),
        },
        "provenance": {
            "seed": context.spec.seed,
            "teacher": context.spec.teacher.model_dump(mode="json", exclude={"finetune"}),
            "rows": data["counts"],
            "packages": {name: metadata.version(name) for name in _PACKAGES},
            "python": platform.python_version(),
            "hardware": _hardware(),
        },
    }
    target = context.output("result.json")
    temporary = target.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, ensure_ascii=False))
    temporary.rename(target)


def _asked_of_endpoints(report: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Requests and tokens of all augmenters together; nothing where none asked an endpoint."""
    total: Counter[str] = Counter()
    for told in (report.get("augmentation") or {}).get("augmenters", []):
        total.update(told.get("usage", {}))
    return {"endpoints": dict(total)} if total else {}


def _hardware() -> dict[str, Any]:
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    devices = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "accelerators": devices,
    }
