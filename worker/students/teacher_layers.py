"""A student cut from its teacher: some of its layers, narrower if asked, with weights that repeat what the teacher does."""

import copy
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from app.domain.errors import InvalidRequest, UnsupportedMethod
from worker.anatomy import FAMILIES
from worker.rows import Batch
from worker.students.base import Origin, StudentInit, StudentParams
from worker.surgery.observation import influence, sample
from worker.surgery.parts import PARTS, Part, part_of
from worker.surgery.reconstruction import reconstruct

Choice = Literal["uniform", "first", "last", "first_last", "skip", "block_influence"]


class TeacherLayers(StudentInit):
    """Keep `layers` of the teacher: a number, chosen as `choose` says, or a list counted from 0.

    uniform: I(j) = ceil(j L_T / L_S), the last one always.  first, last: the first or last L_S.  first_last: half of each.
    skip: every floor(L_T / L_S)-th from the first on.  block_influence: those that move the state most on the job's own
    texts, 1 − E cos(h_l, h_{l+1}).
    At full width every kept weight is inherited as it is. A narrower `hidden_size` D keeps the D directions in which the
    teacher's states vary most, a narrower `intermediate_size` its most important neurons, fewer heads those that move the
    stream most; the remaining weights are solved for, layer by layer, so that on the job's own texts the student's states
    are the teacher's, seen along those directions: see `worker/surgery/reconstruction.py`. The head is inherited likewise where
    teacher and student have the same kind.
    Sources: layer choice, Patient KD arXiv 1908.09355, DistilBERT arXiv 1910.01108 and ShortGPT arXiv 2403.03853; principal
    directions, SliceGPT arXiv 2401.15024; least-squares repair, ThiNet arXiv 1707.06342.
    Raises InvalidRequest for a layer or width the teacher lacks, UnsupportedMethod for families it does not know.
    """

    name = "teacher_layers"

    class Params(StudentParams):
        layers: Annotated[int, Field(ge=1)] | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = Field(
            default=2, description="How many layers to keep, or which, in rising order, counted from 0."
        )
        choose: Choice = Field(
            default="uniform",
            description="Which layers, when `layers` is a number: evenly spread (the last one always), the first, the last, half "
            "of each end, every k-th from the first on, or those that change the states most (measured on the job's texts).",
        )
        keep: list[Part] = Field(
            default=list(PARTS),
            description="What is inherited of embeddings, attention, ffn (feed-forward) and head; what is not starts untrained.",
        )
        hidden_size: int | None = Field(default=None, ge=8, le=8192, description="Student width; default: the teacher's.")
        intermediate_size: int | None = Field(
            default=None, ge=8, le=65536, description="Feed-forward width; default: in proportion."
        )
        num_attention_heads: int | None = Field(default=None, ge=1, le=256, description="Default: the teacher's head size is kept.")
        width: Literal["reconstruct", "importance", "projection"] = Field(
            default="reconstruct",
            description="How a narrower student gets its weights. reconstruct: principal directions, weights solved for by least "
            "squares: closest to the teacher. projection: principal directions, no solving. importance: the most important "
            "dimensions as they are.",
        )
        dropout: float | None = Field(default=0.0, ge=0, lt=1, description="Dropout while training; null keeps the teacher's.")

        @field_validator("layers")
        @classmethod
        def _sensible(cls, value: int | list[int]) -> int | list[int]:
            if isinstance(value, int) and value < 1:
                raise ValueError("keep at least one layer")
            if isinstance(value, list) and (not value or value != sorted(set(value)) or value[0] < 0):
                raise ValueError("list the layers in rising order, each once, counted from 0")
            return value

        @model_validator(mode="after")
        def _one_choice(self) -> "TeacherLayers.Params":
            if isinstance(self.layers, list) and self.choose != "uniform":
                raise ValueError("'choose' chooses layers when 'layers' is a number; a list has chosen already")
            return self

    params: Params

    def make(self, origin: Origin) -> PreTrainedModel:
        teacher = origin.teacher_head.load(origin.teacher_dir)
        teacher.train(False)
        config = teacher.config
        if config.model_type not in FAMILIES:
            raise UnsupportedMethod(
                f"student.init = teacher_layers knows {', '.join(FAMILIES)}, not '{config.model_type}'.",
                param="student.init",
                hint="Use student.init = pretrained with a smaller model of that family.",
            )
        kept = self._chosen(config.num_hidden_layers, teacher, origin)
        narrow = self._config(config, len(kept))
        student = origin.head.make(narrow)
        student.train(False)
        self.plan["layer_map"] = {str(i): layer for i, layer in enumerate(kept)}
        sizes = {n: [getattr(config, _key(config, n)), getattr(narrow, _key(config, n))] for n in _SIZES}
        fresh = {name: value.clone() for name, value in student.state_dict().items()}
        if all(before == after for before, after in sizes.values()):
            head = _inherit(teacher, student, kept)
        else:
            self.plan["width"] = self.params.width
            told = reconstruct(teacher, student, kept, _batches(origin, config), self.params.width)
            head = told.pop("head")
            self.plan |= told
        _undo(student, fresh, [part for part in PARTS if part not in self.params.keep])
        self.plan |= sizes | {"inherited": [p for p in PARTS if p in self.params.keep and (p != "head" or head)]}
        return student

    def _chosen(self, depth: int, teacher: PreTrainedModel, origin: Origin) -> list[int]:
        layers = self.params.layers
        if isinstance(layers, int):
            if layers > depth:
                raise InvalidRequest(
                    f"student.layers is {layers}, the teacher has {depth}.", param="student.layers", hint=f"Choose 1 to {depth}."
                )
            moved = None
            if self.params.choose == "block_influence":
                moved = influence(teacher, _batches(origin, teacher.config))
                self.plan["influence"] = [round(value, 4) for value in moved]
            return chosen_layers(layers, depth, self.params.choose, moved)
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
        if getattr(config, "embedding_size", None) == teacher.hidden_size:  # ELECTRA's tables, unless narrower already
            config.embedding_size = width
        config.num_attention_heads = params.num_attention_heads or width // head_size
        if width > teacher.hidden_size or config.num_attention_heads < 1 or width % config.num_attention_heads:
            raise InvalidRequest(
                f"A width of {width} does not fit {head_size}-wide heads.",
                param="student.hidden_size",
                hint=f"Choose a multiple of {head_size}, at most {teacher.hidden_size}, or give num_attention_heads.",
            )
        wanted = params.intermediate_size or max(1, neurons * width // teacher.hidden_size)
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


_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads")


def chosen_layers(count: int, depth: int, choose: Choice, moved: list[float] | None) -> list[int]:
    """`count` of `depth` layers, counted from 0, in rising order; `moved` is each one's block influence."""
    if choose == "first":
        return list(range(count))
    if choose == "last":
        return list(range(depth - count, depth))
    if choose == "first_last":
        early = count // 2  # of an odd number the last have one more
        return [*range(early), *range(depth - (count - early), depth)]
    if choose == "skip":
        return [n * (depth // count) for n in range(count)]
    if choose == "block_influence":
        assert moved is not None
        return sorted(sorted(range(depth), key=lambda i: (-moved[i], i))[:count])
    return [-(-depth * (i + 1) // count) - 1 for i in range(count)]


def _batches(origin: Origin, config: Any) -> list[Batch]:
    tokenizer = AutoTokenizer.from_pretrained(origin.teacher_dir, local_files_only=True)
    rows = origin.head.encode(origin.sample, tokenizer)
    return sample(rows, config.hidden_size, config.num_hidden_layers)


def _key(config: Any, name: str) -> str:
    """The config's own name of it: DistilBERT says hidden_dim."""
    return name if hasattr(config, name) else {"intermediate_size": "hidden_dim"}[name]


def _inherit(teacher: PreTrainedModel, student: PreTrainedModel, kept: list[int]) -> bool:
    """Every weight of the kept layers, and all that is no layer, as it is; of another kind of head nothing (False)."""
    same = type(teacher) is type(student)
    for source, target in ((teacher, student),) if same else ((teacher.base_model, student.base_model),):
        theirs, taken = source.state_dict(), {}
        for name in target.state_dict():
            before, separator, tail = name.partition(".layer.")
            number, _, rest = tail.partition(".")
            wanted = f"{before}.layer.{kept[int(number)]}.{rest}" if separator else name
            if wanted in theirs:
                taken[name] = theirs[wanted]
        target.load_state_dict(taken, strict=False)
    return same


@torch.no_grad()
def _undo(student: PreTrainedModel, fresh: dict[str, Tensor], parts: list[Part]) -> None:
    """Give `parts` back the weights they were made with. A table that is tied to the head belongs to the embeddings."""
    for name, parameter in student.named_parameters():
        if part_of(name) in parts:
            parameter.copy_(fresh[name])
