"""A student cut from its teacher: some of its layers, narrower if asked, with weights that repeat what the teacher does."""

import copy
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from app.domain.errors import InvalidRequest, UnsupportedMethod
from worker.anatomy import FAMILIES
from worker.plugins import PluginParams
from worker.reconstruction import reconstruct
from worker.rows import tokenize
from worker.students.base import Origin, StudentInit


class TeacherLayers(StudentInit):
    """Keep `layers` of the teacher (a number: evenly spread, the last one always; or a list, counted from 0).

    At full width every kept weight is inherited as it is. A narrower `hidden_size` D keeps the D directions in which the
    teacher's states vary most, a narrower `intermediate_size` its most important neurons, fewer heads those that move the
    stream most; the remaining weights are solved for, layer by layer, so that on the job's own texts the student's states
    are the teacher's, seen along those directions: see `worker/reconstruction.py`. The head is inherited likewise.
    Sources: layer choice, Patient KD arXiv 1908.09355 and DistilBERT arXiv 1910.01108; principal directions, SliceGPT
    arXiv 2401.15024; least-squares repair, ThiNet arXiv 1707.06342.
    Raises InvalidRequest for a layer or width the teacher lacks, UnsupportedMethod for families it does not know.
    """

    name = "teacher_layers"

    class Params(PluginParams):
        layers: Annotated[int, Field(ge=1)] | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = Field(
            default=2, description="How many layers to keep, or which, in rising order, counted from 0."
        )
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
        student: PreTrainedModel = type(teacher)(narrow).eval()
        self.plan = {"init": self.name, "layer_map": {str(i): layer for i, layer in enumerate(kept)}}
        for name in ("hidden_size", "intermediate_size", "num_attention_heads"):
            self.plan[name] = [getattr(config, _key(config, name)), getattr(narrow, _key(config, name))]
        if all(before == after for before, after in list(self.plan.values())[2:]):
            _inherit(teacher, student, kept)
        else:
            tokenizer = AutoTokenizer.from_pretrained(origin.teacher_dir, local_files_only=True)
            records = [{"id": i, "text": text, "label": None} for i, text in enumerate(origin.sample_texts)]
            self.plan |= reconstruct(teacher, student, kept, tokenize(records, tokenizer, origin.max_length))
        return student

    def _chosen(self, depth: int) -> list[int]:
        layers = self.params.layers
        if isinstance(layers, int):
            if layers > depth:
                raise InvalidRequest(
                    f"student.layers is {layers}, the teacher has {depth}.", param="student.layers", hint=f"Choose 1 to {depth}."
                )
            return [-(-depth * (i + 1) // layers) - 1 for i in range(layers)]  # I(j) = ceil(j L_T / L_S), counted from 0
        if layers[-1] >= depth:
            raise InvalidRequest(
                f"The teacher has no layer {layers[-1]}; it has {depth}, counted from 0.",
                param="student.layers",
                hint=f"Choose from 0 to {depth - 1}.",
            )
        return layers

    def _config(self, teacher: Any, depth: int) -> Any:
        config = copy.deepcopy(teacher)
        width, params = self.params.hidden_size or teacher.hidden_size, self.params
        head_size = teacher.hidden_size // teacher.num_attention_heads
        neurons = getattr(teacher, _key(teacher, "intermediate_size"))
        config.num_hidden_layers = depth
        config.hidden_size = width
        if hasattr(config, "embedding_size"):
            config.embedding_size = width
        config.num_attention_heads = params.num_attention_heads or width // head_size
        if width > teacher.hidden_size or config.num_attention_heads < 1 or width % config.num_attention_heads:
            raise InvalidRequest(
                f"A width of {width} does not fit {head_size}-wide heads.",
                param="student.hidden_size",
                hint=f"Choose a multiple of {head_size}, at most {teacher.hidden_size}, or give num_attention_heads.",
            )
        wanted = params.intermediate_size or neurons * width // teacher.hidden_size
        if wanted > neurons:
            raise InvalidRequest(
                f"student.intermediate_size is {wanted}, the teacher's {neurons}.",
                param="student.intermediate_size",
                hint=f"Choose at most {neurons}.",
            )
        setattr(config, _key(teacher, "intermediate_size"), wanted)
        if params.dropout is not None:
            for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
                if hasattr(config, name):
                    setattr(config, name, params.dropout)
        return config


def _key(config: Any, name: str) -> str:
    """The config's own name of it: DistilBERT says hidden_dim."""
    return name if hasattr(config, name) else {"intermediate_size": "hidden_dim"}[name]


def _inherit(teacher: PreTrainedModel, student: PreTrainedModel, kept: list[int]) -> None:
    """Every weight of the kept layers, and all that is no layer, as it is."""
    source = teacher.state_dict()
    taken = {}
    for name in student.state_dict():
        head, separator, tail = name.partition(".layer.")
        number, _, rest = tail.partition(".")
        taken[name] = source[f"{head}.layer.{kept[int(number)]}.{rest}" if separator else name]
    student.load_state_dict(taken)
