"""A model folder becomes a checkpoint: registered for what its architecture does, refused when no job could use it."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.domain.db import Sessions, transaction
from app.domain.errors import DomainError
from app.domain.importing import register_checkpoint, store_checkpoint
from app.domain.storage import BlobStore
from app.serving import heads
from app.serving.backends.base import ModelCard
from tests.conftest import PROJECT
from tests.fixtures.models import model_folder

CLASSES = "BertForSequenceClassification"


@pytest.mark.parametrize(
    ("config", "task", "problem", "labels"),
    [
        ({"architectures": [CLASSES], "id2label": {"0": "no", "1": "yes"}}, "text-classification", "single_label", ["no", "yes"]),
        ({"architectures": [CLASSES]}, "text-classification", "single_label", ["LABEL_0", "LABEL_1"]),
        (
            {"architectures": [CLASSES], "problem_type": "multi_label_classification"},
            "text-classification",
            "multi_label",
            ["LABEL_0", "LABEL_1"],
        ),
        ({"architectures": [CLASSES], "id2label": {"0": "LABEL_0"}}, "text-classification", "regression", []),
        ({"architectures": [CLASSES], "num_labels": 1}, "text-classification", "regression", []),
        ({"architectures": [CLASSES], "num_labels": 1, "problem_type": "regression"}, "text-classification", "regression", []),
        (
            {"architectures": ["BertForTokenClassification"], "id2label": {"0": "O", "1": "B-X"}},
            "token-classification",
            "tokens",
            ["O", "B-X"],
        ),
        ({"architectures": ["BertForMaskedLM"]}, "masked-lm", "masked_lm", []),
        ({"architectures": ["BertModel"]}, "embedding", "embedding", []),
        ({"architectures": ["ElectraForPreTraining"]}, "embedding", "embedding", []),
        ({"architectures": None}, "embedding", "embedding", []),
        ({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}, None, None, []),
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, None, None, []),
        (
            {"architectures": ["BartForSequenceClassification"], "is_encoder_decoder": True, "num_labels": 3},
            "text-classification",
            "single_label",
            ["LABEL_0", "LABEL_1", "LABEL_2"],
        ),
    ],
)
def test_it_is_registered_for_what_its_architecture_does(
    tmp_path: Path, sessions: Sessions, config: dict[str, Any], task: str | None, problem: str | None, labels: list[str]
) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    stored = store_checkpoint(model_folder(tmp_path / "m", **config), blobs)
    with transaction(sessions) as session:
        assert register_checkpoint(session, PROJECT, "m", stored, base_model="m", provenance={}).task == task
    said = json.loads((blobs.artifact(stored.digest) / "retort.json").read_text())
    assert (said["task"], said["problem"], said["labels"]) == (task, problem, labels)
    card = ModelCard.model_validate(said)  # serving can read it, and would offer what the model does
    if problem is None:
        return
    kinds = {
        "single_label": "scores",
        "multi_label": "independent",
        "regression": "value",
        "tokens": "words",
    }
    assert heads.classify(card) == kinds.get(problem)
    assert heads.embeddings(card) == (None if problem == "tokens" else "embedding")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"architectures": ["BertForQuestionAnswering"]}, "BertForQuestionAnswering"),
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, "T5ForConditionalGeneration"),
        ({"architectures": ["T5Model"], "is_encoder_decoder": True}, "T5Model"),
        ({"architectures": ["ViTModel"], "model_type": "vit", "vocab_size": None}, "'vit' of the class ViTModel"),
        ({"architectures": ["ViTForImageClassification"], "model_type": "vit"}, "ViTForImageClassification"),
    ],
)
def test_what_no_job_could_use_is_refused(tmp_path: Path, config: dict[str, Any], told: str) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    with pytest.raises(DomainError, match=told) as refused:
        store_checkpoint(model_folder(tmp_path / "m", **config), blobs)
    assert refused.value.code == "unsupported_method"
    assert "encoder" in str(refused.value.hint)
    assert not [*(tmp_path / "blobs").rglob("config.json")]


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DomainError, match="no tokenizer") as refused:
        store_checkpoint(folder, BlobStore(tmp_path / "blobs"))
    assert refused.value.code == "incompatible_models"
