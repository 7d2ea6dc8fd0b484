"""A teacher in a transformers folder: already a classifier for these labels, or fitted on them first."""

import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from app.domain import manifest
from app.domain.errors import IncompatibleModels
from worker.predict import predict
from worker.rows import Rows
from worker.teachers.base import Teacher

WEIGHTS = ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt", "merges.txt", "spiece.model")


class LocalHF(Teacher):
    """Logits of `AutoModelForSequenceClassification`, eval mode, no gradient, in `dtype`."""

    name = "local_hf"

    def __init__(self, folder: Path, device: torch.device, dtype: str = "auto", batch_size: int = 64) -> None:
        self.folder, self.device, self.batch_size = folder, device, batch_size
        half = dtype == "bfloat16" or (dtype == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported())
        self.dtype = torch.bfloat16 if half else torch.float32
        self._model: PreTrainedModel | None = None

    def fingerprint(self) -> str:
        parts = [f"{path.name}:{manifest.sha256_file(path)}" for path in sorted(self.folder.iterdir()) if path.name in WEIGHTS]
        return hashlib.sha256("\n".join([*parts, str(self.dtype)]).encode()).hexdigest()

    def logits(self, rows: Rows) -> Tensor:
        if self._model is None:
            loaded = AutoModelForSequenceClassification.from_pretrained(
                self.folder, dtype=self.dtype, use_safetensors=True, local_files_only=True
            )
            self._model = loaded.to(self.device).eval()
        return predict(self._model, rows, self.device, batch_size=self.batch_size)


def load_for(folder: Path, labels: list[str]) -> PreTrainedModel:
    """The folder's model with a head for `labels`: its own when the labels agree, else a fresh one (to be fitted)."""
    own = labels_of(folder)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
        folder,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        ignore_mismatched_sizes=own != labels,
        use_safetensors=True,
        local_files_only=True,
        dtype="float32",
    )
    return model


def labels_of(folder: Path) -> list[str] | None:
    """The labels of the folder's classification head in the order of its outputs; None when it has no such head."""
    config = json.loads((folder / "config.json").read_text())
    if not any("ForSequenceClassification" in name for name in config.get("architectures") or []):
        return None
    names = config.get("id2label") or {}
    return [str(names[key]) for key in sorted(names, key=int)] or None


def require_head(folder: Path, labels: list[str]) -> None:
    """Raises IncompatibleModels unless the teacher already classifies into exactly these labels, in this order."""
    own = labels_of(folder)
    if own != labels:
        told = "has no classification head" if own is None else f"knows the labels {own[:5]}, the rows have {labels[:5]}"
        raise IncompatibleModels(
            f"The teacher {told}.",
            param="teacher.finetune",
            hint='Add "teacher": {"finetune": {"epochs": 3}} to fit it on your rows first.',
        )


def save(model: PreTrainedModel, tokenizer_dir: Path, folder: Path) -> None:
    """Write a transformers folder: config, safetensors, tokenizer."""
    nn.Module.to(model, torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_dir, local_files_only=True).save_pretrained(folder)
