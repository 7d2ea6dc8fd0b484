"""One judge for every student, whoever trained it: a transformers folder in, a figure on the test rows out."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from bench.engine.data import DataSet
from bench.peers.task import rows

logging.set_verbosity_error()
logging.disable_progress_bar()


@torch.no_grad()
def quality(folder: Path, data: DataSet) -> float:
    """Spearman correlation of cosines with scores; accuracy of classes."""
    test, length = rows(str(data.files["test"])), data.columns["max_length"]
    if data.task == "embedding":
        model = AutoModel.from_pretrained(folder).eval()
        left, right = (_vectors(model, folder, [row[name] for row in test], length) for name in ("text", "text_b"))
        return float(spearmanr((left * right).sum(1), [row["score"] for row in test]).statistic)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    answers = _batched(folder, [row["text"] for row in test], length, lambda batch: model(**batch).logits)
    named = [model.config.id2label[int(i)] for i in answers.argmax(1)]
    return sum(a == row["label"] for a, row in zip(named, test, strict=True)) / len(test)


def _vectors(model: Any, folder: Path, texts: list[str], length: int) -> Any:
    """Unit vectors: the mean of the last hidden state over the tokens."""

    def embed(batch: Any) -> Any:
        mask = batch["attention_mask"].unsqueeze(-1)
        mean = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(mean, dim=-1)

    return _batched(folder, texts, length, embed)


def _batched(folder: Path, texts: list[str], length: int, call: Any) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    parts = []
    for start in range(0, len(texts), 64):
        chosen = [texts[i] for i in order[start : start + 64]]
        parts.append(call(tokenizer(chosen, truncation=True, max_length=length, padding=True, return_tensors="pt")).numpy())
    return np.concatenate(parts)[np.argsort(order)]
