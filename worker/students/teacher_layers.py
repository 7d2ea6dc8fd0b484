"""A student cut from its teacher: some of its layers, narrower if asked, with the weights that still fit.

Shapes: V vocabulary, E teacher width, D student width (D ≤ E), F feed-forward width, L layers, N tokens sampled.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from app.domain.errors import InvalidRequest, UnsupportedMethod
from worker.plugins import PluginParams
from worker.students.base import Origin, StudentInit

FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "electra")


class TeacherLayers(StudentInit):
    """Keep `layers` of the teacher (a number: evenly spread, the last one always; or a list, counted from 0).

    Without `hidden_size` and `intermediate_size` every kept weight is inherited as it is. A narrower width D keeps the D
    directions in which the teacher's hidden states vary most: with P (E, D) the leading eigenvectors of their covariance
    over the layers kept, an input map W becomes W P, an output map Pᵀ W, an embedding table T P. Attention keeps its
    first D/head-size heads, a narrower feed-forward its rows of largest norm ‖W_in‖·‖W_out‖. LayerNorms, whose scale does
    not commute with a rotation, start at one and zero. Sources: layer choice, Patient KD arXiv 1908.09355 and DistilBERT
    arXiv 1910.01108; principal directions of the residual stream, SliceGPT arXiv 2401.15024.
    Raises InvalidRequest for a layer or width the teacher lacks, UnsupportedMethod for other families than BERT's.
    """

    name = "teacher_layers"

    class Params(PluginParams):
        layers: int | list[int] = Field(default=2, description="How many layers to keep, or which, counted from 0.")
        hidden_size: int | None = Field(default=None, ge=8, le=8192, description="Student width; default: the teacher's.")
        intermediate_size: int | None = Field(
            default=None, ge=8, le=65536, description="Feed-forward width; default: in proportion."
        )
        num_attention_heads: int | None = Field(default=None, ge=1, le=256, description="Default: the teacher's head size is kept.")
        dropout: float | None = Field(default=0.0, ge=0, lt=1, description="Dropout while training; null keeps the teacher's.")

        @field_validator("layers")
        @classmethod
        def _sensible(cls, value: int | list[int]) -> int | list[int]:
            if isinstance(value, int) and value < 1:
                raise ValueError("keep at least one layer")
            if isinstance(value, list) and (not value or value != sorted(set(value)) or value[0] < 0):
                raise ValueError("list the layers in rising order, each once, counted from 0")
            return value

    params: Params

    def tokenizer_dir(self, origin: Origin) -> Path:
        return origin.teacher_dir

    def build(self, origin: Origin) -> PreTrainedModel:
        teacher = AutoModelForSequenceClassification.from_pretrained(
            origin.teacher_dir, use_safetensors=True, local_files_only=True, dtype="float32"
        ).eval()
        config = teacher.config
        if config.model_type not in FAMILIES or getattr(config, "embedding_size", config.hidden_size) != config.hidden_size:
            raise UnsupportedMethod(
                f"student.init = teacher_layers knows {', '.join(FAMILIES)}, not '{config.model_type}'.",
                param="student.init",
                hint="Use student.init = pretrained with a smaller model of that family.",
            )
        kept = self._chosen(config.num_hidden_layers)
        narrow = self._config(config, len(kept))
        student: PreTrainedModel = type(teacher)(narrow)
        basis_ED, energy = self._basis(teacher, origin, kept, narrow.hidden_size)
        _inherit(teacher, student, kept, basis_ED)
        self.plan = {
            "init": self.name,
            "layer_map": {str(i): layer for i, layer in enumerate(kept)},
            "hidden_size": [config.hidden_size, narrow.hidden_size],
            "intermediate_size": [config.intermediate_size, narrow.intermediate_size],
            "attention_heads": [config.num_attention_heads, narrow.num_attention_heads],
            "variance_kept": round(energy, 4),
        }
        return student

    def _chosen(self, depth: int) -> list[int]:
        layers = self.params.layers
        if isinstance(layers, int):
            if layers > depth:
                raise InvalidRequest(f"student.layers is {layers}, but the teacher has {depth}.", param="student.layers")
            return [-(-depth * (i + 1) // layers) - 1 for i in range(layers)]  # I(j) = ceil(j L_T / L_S), counted from 0
        if layers[-1] >= depth:
            raise InvalidRequest(f"The teacher has no layer {layers[-1]}; it has {depth}, from 0.", param="student.layers")
        return layers

    def _config(self, teacher: Any, depth: int) -> Any:
        config = copy.deepcopy(teacher)
        width = self.params.hidden_size or teacher.hidden_size
        head_size = teacher.hidden_size // teacher.num_attention_heads
        config.num_hidden_layers = depth
        config.hidden_size = width
        if hasattr(config, "embedding_size"):
            config.embedding_size = width
        config.num_attention_heads = self.params.num_attention_heads or width // head_size
        if width > teacher.hidden_size or config.num_attention_heads < 1 or width % config.num_attention_heads:
            raise InvalidRequest(f"A width of {width} does not fit {head_size}-wide heads.", param="student.hidden_size")
        config.intermediate_size = self.params.intermediate_size or teacher.intermediate_size * width // teacher.hidden_size
        if config.intermediate_size > teacher.intermediate_size:
            raise InvalidRequest("student.intermediate_size exceeds the teacher's.", param="student.intermediate_size")
        if self.params.dropout is not None:
            config.hidden_dropout_prob = config.attention_probs_dropout_prob = self.params.dropout
        return config

    @torch.no_grad()
    def _basis(self, teacher: PreTrainedModel, origin: Origin, kept: list[int], width: int) -> tuple[Tensor | None, float]:
        """P (E, D) and the share of variance it keeps; None when the width stays."""
        if width == teacher.config.hidden_size:
            return None, 1.0
        tokenizer = AutoTokenizer.from_pretrained(origin.teacher_dir, local_files_only=True)
        states: list[Tensor] = []
        for start in range(0, len(origin.sample_texts), 32):
            batch = tokenizer(
                origin.sample_texts[start : start + 32],
                padding=True,
                truncation=True,
                max_length=origin.max_length,
                return_tensors="pt",
            )
            hidden = teacher(**batch, output_hidden_states=True).hidden_states
            valid_BT = batch["attention_mask"].bool()
            states += [hidden[i][valid_BT] for i in (0, *(layer + 1 for layer in kept))]
        states_NE = torch.cat(states).double()
        states_NE -= states_NE.mean(0)
        values_E, vectors_EE = torch.linalg.eigh(states_NE.T @ states_NE / len(states_NE))
        energy = float(values_E[-width:].sum() / values_E.sum())
        return vectors_EE.flip(-1)[:, :width].float(), energy


@torch.no_grad()
def _inherit(teacher: PreTrainedModel, student: PreTrainedModel, kept: list[int], basis_ED: Tensor | None) -> None:
    """Copy every weight of the kept layers, projected by P where the width changed."""
    source, target = teacher.state_dict(), student.state_dict()
    for name, slot in target.items():
        origin = name
        if ".layer." in name:
            head, _, tail = name.partition(".layer.")
            number, _, rest = tail.partition(".")
            origin = f"{head}.layer.{kept[int(number)]}.{rest}"
        value = source[origin]
        if basis_ED is None and value.shape == slot.shape:
            slot.copy_(value)
        elif value.is_floating_point():
            if "intermediate.dense" in name or (".output.dense" in name and ".attention." not in name and ".layer." in name):
                value = _fewer_neurons(value, source, origin, name, student.config.intermediate_size)
            slot.copy_(_projected(name, value, slot, basis_ED))


def _fewer_neurons(value: Tensor, source: dict[str, Tensor], origin: str, name: str, width: int) -> Tensor:
    block = origin.split(".intermediate.dense" if "intermediate.dense" in name else ".output.dense")[0]
    strength_F = source[f"{block}.intermediate.dense.weight"].norm(dim=1) * source[f"{block}.output.dense.weight"].norm(dim=0)
    rows = strength_F.topk(width).indices.sort().values
    if "intermediate.dense" in name:
        return value[rows]
    return value[:, rows] if value.dim() == 2 else value


def _projected(name: str, value: Tensor, slot: Tensor, basis_ED: Tensor | None) -> Tensor:
    if basis_ED is None:
        return value
    if "LayerNorm" in name:
        return slot
    if value.dim() == 1:
        if ".attention.self." in name:
            return value[: slot.shape[0]]
        return value if value.shape == slot.shape else basis_ED.T @ value
    if "embeddings" in name:
        return value @ basis_ED
    if ".attention.self." in name:  # reads the stream, writes the first heads
        return (value @ basis_ED)[: slot.shape[0]]
    if ".attention.output." in name:  # reads the first heads, writes the stream
        return basis_ED.T @ value[:, : slot.shape[1]]
    if "intermediate.dense" in name or "out_proj" in name or name == "classifier.weight":
        return value @ basis_ED
    if ".output.dense" in name:
        return basis_ED.T @ value
    return basis_ED.T @ value @ basis_ED  # stream to stream: pooler, classifier.dense
