"""From a folder somebody brought to an artifact and a model version: the one way in for `retort models import` and for workers."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.domain import manifest
from app.domain.errors import IncompatibleModels, UnsupportedMethod
from app.domain.modelfiles import ModelInfo, check_model_dir, copy_model
from app.domain.models import ModelVersion
from app.domain.repositories.registry import Registry
from app.domain.storage import BlobStore


@dataclass(frozen=True)
class Stored:
    """A checked model in the artifact store, not yet in the registry."""

    digest: str
    manifest: dict[str, Any]
    info: ModelInfo

    @property
    def bytes(self) -> int:
        return sum(int(f["bytes"]) for f in self.manifest["files"].values())


@dataclass(frozen=True)
class Does:
    """What a model answers as it is; `task` is None for one that writes text: no task, but augmentation asks it."""

    task: str | None
    problem: str | None = None


_HEADS = {
    "ForSequenceClassification": Does("text-classification", "single_label"),
    "ForTokenClassification": Does("token-classification", "tokens"),
    "ForMaskedLM": Does("masked-lm", "masked_lm"),
    "ForCausalLM": Does(None),
    "LMHeadModel": Does(None),
    "ForPreTraining": Does("embedding", "embedding"),  # its own head is of no use, its encoder is
    "Model": Does("embedding", "embedding"),
}


def does(info: ModelInfo) -> Does:
    """By the architecture. Raises UnsupportedMethod for a model that no job could use."""
    own = (info.architectures or ["Model"])[0]  # a config without a name of a class is a bare encoder's
    found = next((known for suffix, known in _HEADS.items() if own.endswith(suffix)), None)
    if found is None or info.vocab_size is None or (found.task == "embedding" and info.encoder_decoder):
        what = f"a '{info.model_type}' of the class {own}" if info.architectures else f"a '{info.model_type}'"
        raise UnsupportedMethod(
            f"This model is {what}: no task here can use it.",
            hint="Bring a text encoder, bare or with a head that classifies texts or tokens or guesses masked words, or a causal "
            "language model. Of another head the encoder alone may do: load it with AutoModel and save that.",
        )
    if not info.has_tokenizer:
        raise IncompatibleModels("The model has no tokenizer files.", hint="Bring tokenizer.json beside the weights.")
    if found.problem == "single_label":
        if info.problem_type == "multi_label_classification":
            return Does(found.task, "multi_label")
        if info.problem_type == "regression" or info.num_labels == 1:
            return Does(found.task, "regression")
    return found


def store_checkpoint(folder: Path, blobs: BlobStore) -> Stored:
    """Check a model folder and copy its allowed files into the artifact store. Raises ModelNotAllowed, or what `does` raises."""
    does(check_model_dir(folder))
    with blobs.staging() as staged:
        copy = staged / "model"
        copy_model(folder, copy)
        info = check_model_dir(copy)  # what was copied is what counts
        (copy / "retort.json").write_text(json.dumps(_card(info), indent=1, sort_keys=True))
        described = manifest.write(copy)
        digest = blobs.put_artifact(copy)
    return Stored(digest, {k: described[k] for k in ("format", "digest", "files")}, info)


def register_checkpoint(
    session: Session, project_id: str, name: str, stored: Stored, *, base_model: str, provenance: dict[str, Any]
) -> ModelVersion:
    """A new version of kind `checkpoint`, in the caller's transaction."""
    return Registry(session, project_id).add_version(
        name,
        kind="checkpoint",
        task=does(stored.info).task,
        digest=stored.digest,
        manifest=stored.manifest,
        bytes=stored.bytes,
        params=stored.info.params,
        source_job_id=None,
        base_model=base_model,
        quality={},
        provenance=provenance,
    )


def _card(info: ModelInfo) -> dict[str, Any]:
    """retort.json: what serving and the catalogue of models need to know; a checkpoint has no backend of its own."""
    answers = does(info)
    labels = info.labels or [f"LABEL_{n}" for n in range(info.num_labels or 0)]  # as transformers calls them
    return {
        "format": 1,
        "kind": "checkpoint",
        "task": answers.task,
        "problem": answers.problem,
        "labels": labels if answers.problem in ("single_label", "multi_label", "tokens") else [],
        "embedding_dim": info.hidden_size if answers.task not in (None, "token-classification") else None,
        "pooling": "mean",
        "normalize": True,
        "backends": [],
    }
