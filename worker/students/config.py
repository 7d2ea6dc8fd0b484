"""An untrained student of any shape, with its teacher's tokenizer and, seen along fewer directions, its teacher's tables."""

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from app.domain.errors import UnsupportedMethod
from worker import anatomy
from worker.students.base import Origin, StudentInit, StudentParams
from worker.surgery.basis import principal
from worker.surgery.observation import sample

_OFFSET = ("roberta", "xlm-roberta", "camembert", "mpnet")  # count positions from behind the padding's number
_TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")


class Config(StudentInit):
    """Make an encoder from its measures; all weights are random but the embedding tables.

    `inherit_embeddings`: T' = T P for the tables of words, positions and token types, P (E, D) the D directions in which the
    sums of tables vary most over the job's rows; a student wider than its teacher's tables gets T in its first columns.
    Source: embeddings inherited by a student of another shape, e.g. TinyBERT arXiv 1909.10351 (where they are learned).
    Raises UnsupportedMethod when tables are asked for and the teacher's do not lie where BERT's do.
    """

    name = "config"

    class Params(StudentParams):
        model_type: Literal["bert", "distilbert", "roberta", "electra"] = Field(
            default="bert", description="Family of the student."
        )
        num_hidden_layers: int = Field(default=2, ge=1, le=64, description="Layers.")
        hidden_size: int = Field(default=128, ge=8, le=8192, description="Width.")
        num_attention_heads: int = Field(default=2, ge=1, le=256, description="Attention heads; they share the width.")
        intermediate_size: int | None = Field(
            default=None, ge=8, le=65536, description="Feed-forward width; default: four times the width."
        )
        embedding_size: int | None = Field(
            default=None, ge=8, le=8192, description="electra alone: width of the tables; default: the student's width."
        )
        inherit_embeddings: bool = Field(
            default=True,
            description="Start from the teacher's embedding tables, reduced to this width by their principal directions.",
        )
        dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout while training.")

        @model_validator(mode="after")
        def _fits(self) -> "Config.Params":
            if self.hidden_size % self.num_attention_heads:
                raise ValueError("hidden_size must be a multiple of num_attention_heads")
            if self.embedding_size is not None and self.model_type != "electra":
                raise ValueError("only electra has an embedding_size of its own")
            return self

    params: Params

    def make(self, origin: Origin) -> PreTrainedModel:
        teacher = AutoConfig.from_pretrained(origin.teacher_dir, local_files_only=True)
        student = origin.head.make(self._config(teacher))
        student.train(False)
        if self.params.inherit_embeddings:
            self.plan["embedding_variance_kept"] = round(_inherit_tables(origin, student), 4)
        self.plan |= {"model_type": self.params.model_type, "inherited": ["embeddings"] if self.params.inherit_embeddings else []}
        return student

    def _config(self, teacher: Any) -> Any:
        params, kind = self.params, self.params.model_type
        positions = int(getattr(teacher, "max_position_embeddings", 512))
        offset = (teacher.pad_token_id or 0) + 1
        if teacher.model_type in _OFFSET:
            positions -= offset
        if kind in _OFFSET:
            positions += offset
        shape = {
            "vocab_size": teacher.vocab_size,
            "pad_token_id": teacher.pad_token_id,
            "max_position_embeddings": positions,
            "hidden_size": params.hidden_size,
            "num_hidden_layers": params.num_hidden_layers,
            "num_attention_heads": params.num_attention_heads,
        }
        neurons = params.intermediate_size or 4 * params.hidden_size
        if kind == "distilbert":
            shape |= {"hidden_dim": neurons, "dropout": params.dropout, "attention_dropout": params.dropout}
            shape |= {"dim": shape.pop("hidden_size"), "n_layers": shape.pop("num_hidden_layers")}
            shape |= {"n_heads": shape.pop("num_attention_heads"), "seq_classif_dropout": params.dropout}
        else:
            shape |= {"intermediate_size": neurons, "hidden_dropout_prob": params.dropout}
            shape |= {
                "attention_probs_dropout_prob": params.dropout,
                "type_vocab_size": getattr(teacher, "type_vocab_size", None) or 2,
            }
        if kind == "electra":
            shape["embedding_size"] = params.embedding_size or params.hidden_size
        return AutoConfig.for_model(kind, **shape)


@torch.no_grad()
def _inherit_tables(origin: Origin, student: PreTrainedModel) -> float:
    """Fill the student's tables; returns the share of variance that its directions keep (1 where it is as wide)."""
    teacher = origin.teacher_head.load(origin.teacher_dir)
    theirs: Any = getattr(teacher.base_model, "embeddings", None)
    ours: Any = getattr(student.base_model, "embeddings", None)
    if not all(hasattr(theirs, name) for name in _TABLES[:2]):
        raise UnsupportedMethod(
            f"The embedding tables of a '{teacher.config.model_type}' cannot be inherited.",
            param="student.inherit_embeddings",
            hint=f"Set it to false, or use a teacher of one of {', '.join(anatomy.FAMILIES)}.",
        )
    width, given = ours.word_embeddings.embedding_dim, theirs.word_embeddings.embedding_dim
    kept = 1.0
    basis_ED = torch.eye(given)
    if width < given:
        basis_ED, kept = principal([_sums(origin, theirs, _first(teacher))], width)
    for name in _TABLES:
        source, table = getattr(theirs, name, None), getattr(ours, name, None)
        if source is None or table is None:
            continue
        skip = 0
        if name == "position_embeddings":
            skip = _first(teacher) - _first(student)
        taken = source.weight[max(0, skip) :] @ basis_ED
        into = table.weight[max(0, -skip) :, : basis_ED.shape[1]]
        rows = min(len(taken), len(into))
        into[:rows] = taken[:rows]
    return kept


def _first(model: PreTrainedModel) -> int:
    """Row of the first position."""
    return (model.config.pad_token_id or 0) + 1 if model.config.model_type in _OFFSET else 0


def _sums(origin: Origin, embeddings: Any, first: int) -> Tensor:
    """(N, E) word and position of every token of the sample."""
    tokenizer = AutoTokenizer.from_pretrained(origin.teacher_dir, local_files_only=True)
    batches = sample(origin.teacher_head.encode(origin.sample, tokenizer), embeddings.word_embeddings.embedding_dim, 1)
    found = []
    for batch in batches:
        valid_BT = batch.attention_mask_BT.bool()
        places_T = torch.arange(valid_BT.shape[1]) + first
        sums_BTE = embeddings.word_embeddings(batch.input_ids_BT) + embeddings.position_embeddings(places_T)
        found.append(sums_BTE[valid_BT])
    return torch.cat(found)
