"""JobSpec: what a user may ask for. Frozen, strict, digestible; plug-in blocks are checked against the catalogue."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from app.domain.schedule import Schedule, Scheduled, in_range

ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
FileId = Annotated[str, StringConstraints(pattern=r"^file-[0-9A-HJKMNP-TV-Z]{26}$")]
Column = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _PluginBlock(BaseModel):
    """A discriminator plus the plug-in's own parameters, which `catalog.check` validates."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class Finetune(_Block):
    """First fit the teacher on the labelled rows: all weights, or only a new head."""

    epochs: int = Field(default=3, ge=1, le=100)
    learning_rate: Positive = 2e-4
    batch_size: int = Field(default=32, ge=1, le=4096)
    train: Literal["all", "head"] = "all"
    seed: int | None = Field(
        default=None, ge=0, lt=2**32, description="Of the fit alone; default: from the job's. One teacher for many seeds."
    )


class Source(_Block):
    """Of any model that teaches: which state of it, and how it is fitted to the rows first."""

    revision: str | None = Field(default=None, max_length=100)
    finetune: Finetune | None = None


class Member(Source):
    """One more teacher of an ensemble."""

    source: Literal["hub", "local", "registry"]
    model: str = Field(min_length=1, max_length=200)
    weight: float = Field(default=1.0, gt=0, le=1e6, description="Its share in the average.")
    route: str | None = Field(default=None, max_length=200, description="It answers the rows whose route column has this value.")


class Teacher(Source):
    source: Literal["hub", "local", "registry", "self"] = Field(
        description="self: the model that the student starts from (student.init = pretrained), fitted to the labels first."
    )
    model: str = Field(default="", max_length=200, validate_default=True, description="Its name there; with source 'self', none.")
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    batch_size: int = Field(default=64, ge=1, le=4096)
    cache: Literal["auto", "always", "never"] = Field(
        default="auto", description="Hidden states on disk: auto keeps them while they fit, and asks the teacher anew otherwise."
    )
    ensemble: list[Member] = Field(default=[], max_length=8, description="More teachers, averaged with this one or routed by row.")
    weight: float = Field(default=1.0, gt=0, le=1e6, description="Its share in an ensemble's average.")
    route: str | None = Field(default=None, max_length=200, description="It answers the rows whose route column has this value.")

    @field_validator("model")
    @classmethod
    def _named(cls, value: str, info: ValidationInfo) -> str:
        if not value and info.data.get("source") != "self":
            raise PydanticCustomError("missing", "Field required")
        if value and info.data.get("source") == "self":
            raise ValueError("source 'self' takes it from the student; leave it out here")
        return value


class Adapter(_Block):
    """Low-rank matrices that train in place of the weights. LoRA arXiv 2106.09685, DoRA arXiv 2402.09353."""

    type: Literal["lora", "dora"] = "lora"
    r: int = Field(default=8, ge=1, le=1024)
    alpha: float = Field(default=16, gt=0, le=1e5)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: Literal["auto"] | list[Annotated[str, StringConstraints(min_length=1, max_length=200)]] = "auto"
    merge: bool = Field(default=True, description="Add them to the weights at packaging; otherwise they are also kept apart.")


class Student(_PluginBlock):
    init: str
    adapter: Adapter | None = None


class Data(_Block):
    training_file: FileId
    validation_file: FileId | None = None
    validation_split: float = Field(default=0.1, gt=0, lt=0.9)
    test_file: FileId | None = Field(
        default=None, description="Rows for the report; never trained or selected on. Default: the validation rows."
    )
    text: Column = Field(
        default="text", description="Column of the text; of the words for token-classification, of the query for ranking."
    )
    text_b: Column | None = Field(default=None, description="Column of the second text, where texts are judged in pairs.")
    documents: Column = Field(default="documents", description="Ranking: column with the list of a query's documents.")
    label: Column = "label"
    problem: Literal["single_label", "multi_label", "regression"] = Field(
        default="single_label", description="text-classification: one label a row, a list of labels, or a number."
    )
    route: Column | None = Field(default=None, description="Column that says which teacher of an ensemble answers a row.")
    on_bad_row: Literal["fail", "skip"] = "fail"
    max_examples: int | None = Field(default=None, ge=1)
    max_length: int = Field(default=128, ge=4, le=8192, description="Tokens; longer texts are cut.")


class Objective(_PluginBlock):
    type: str
    weight: Scheduled = Field(default=1.0, validate_default=True)

    @field_validator("weight")
    @classmethod
    def _pulls_towards(cls, value: Schedule) -> Schedule:
        return in_range(value, 0, 1e6, "weight")


class StageTeacher(_PluginBlock):
    """Who teaches in this stage: `main` (the job's teacher), `ema`, `previous`, `mutual`, …"""

    type: str = "main"


Pattern = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class EarlyStopping(_Block):
    patience: int = Field(default=2, ge=1, description="Epochs without a better validation score before the stage ends.")


class Stage(_Block):
    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
    objectives: list[Objective] = Field(min_length=1, max_length=16)
    teacher: StageTeacher = StageTeacher()
    restart: bool = Field(default=False, description="Begin from the student's first weights again (born-again generations).")
    train: Literal["all", "head", "adapter"] | Annotated[list[Pattern], Field(min_length=1, max_length=32)] = Field(
        default="all", description="What moves: everything, the head, the adapter, or parameters whose name matches a pattern."
    )
    epochs: int = Field(default=3, ge=1, le=1000)
    max_steps: int | None = Field(default=None, ge=1)
    learning_rate: Positive = 5e-5
    batch_size: int = Field(default=32, ge=1, le=65536)
    gradient_accumulation: int = Field(default=1, ge=1, le=1024)
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    warmup_ratio: float = Field(default=0.06, ge=0, lt=1)
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    early_stopping: EarlyStopping | None = None
    balance: bool = Field(default=True, description="Fail when weighted objectives differ in size by more than a thousandfold.")


def numbered(types: Sequence[str]) -> list[str]:
    """A name for each objective of a stage, as report and metrics call it: a second `hidden_mse` is `hidden_mse-2`."""
    seen: Counter[str] = Counter()
    names = []
    for name in types:
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names


class Augmentation(_PluginBlock):
    type: str


class Recipe(_PluginBlock):
    type: str


class Quantization(_PluginBlock):
    scheme: str = "int8_dynamic"


class Evaluation(_Block):
    max_items: int | None = Field(default=None, ge=1)
    baseline: bool = Field(default=True, description="Also train the student without the teacher, to show what distillation adds.")


class Ranking(_Block):
    """What reads a query and its documents: both at once (cross_encoder), or each for itself (bi_encoder)."""

    teacher: Literal["cross_encoder", "bi_encoder"] = "cross_encoder"
    student: Literal["cross_encoder", "bi_encoder"] = "cross_encoder"


class Target(_Block):
    """What the student has to reach; the service looks for the smallest that does."""

    min_retention: float | None = Field(default=None, gt=0, le=2)
    min_speedup: float | None = Field(default=None, gt=0, le=1e5)
    max_size_ratio: float | None = Field(default=None, gt=0, le=2)
    max_latency_ms: float | None = Field(default=None, gt=0, le=1e6)
    device: Literal["cpu"] = "cpu"
    layers: list[int] | None = Field(default=None, min_length=1, max_length=16, description="Depths to try; default: all sensible.")
    hidden_sizes: list[int] | None = Field(default=None, min_length=1, max_length=16, description="Widths to try.")
    trials: int = Field(default=8, ge=2, le=64, description="Candidates that start training; successive halving drops the rest.")
    serve_best: bool = Field(default=False, description="Publish the nearest student even when it misses the target.")

    @model_validator(mode="after")
    def _asks_something(self) -> "Target":
        if not any((self.min_retention, self.min_speedup, self.max_size_ratio, self.max_latency_ms)):
            raise ValueError("a target needs min_retention, min_speedup, max_size_ratio or max_latency_ms")
        return self


class Output(_Block):
    model_name: ModelName | None = None
    alias: ModelName | None = None


class Compute(_Block):
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    max_attempts: int = Field(default=3, ge=1, le=10)
    priority: int = Field(default=0, ge=-100, le=100)


class Budget(_Block):
    max_wall_seconds: float | None = Field(default=None, gt=0)


Metadata = Annotated[
    dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=512)]],
    Field(max_length=16),
]


class JobSpec(_Block):
    """One JSON document; `POST /v1/distillation/validate` answers it with every default filled in."""

    name: str = Field(min_length=1, max_length=128)
    task: Literal["text-classification", "token-classification", "embedding", "ranking", "masked-lm"]
    seed: int = Field(default=7, ge=0, lt=2**32)
    deterministic: bool = True
    metadata: Metadata = {}
    teacher: Teacher
    student: Student
    data: Data
    ranking: Ranking | None = None
    augmentation: list[Augmentation] = Field(default=[], max_length=8)
    recipe: Recipe | str | None = None
    stages: list[Stage] | None = Field(default=None, min_length=1, max_length=16)
    quantization: Quantization = Quantization()
    exports: list[Literal["safetensors", "onnx"]] = ["safetensors", "onnx"]
    evaluation: Evaluation = Evaluation()
    target: Target | None = None
    output: Output = Output()
    compute: Compute = Compute()
    budget: Budget = Budget()

    @field_validator("stages")
    @classmethod
    def _one_plan(cls, value: list[Stage] | None, info: ValidationInfo) -> list[Stage] | None:
        if value is not None and info.data.get("recipe") is not None:
            raise ValueError("give 'recipe' or 'stages', not both: a recipe expands into stages")
        if value is not None and len({stage.name for stage in value}) != len(value):
            raise ValueError("every stage needs a name of its own")
        return value

    def resolved(self) -> dict[str, Any]:
        """JSON form with every default filled in."""
        return self.model_dump(mode="json")


def config_hash(resolved: dict[str, Any]) -> str:
    """`sha256:…` of what decides the result: the resolved spec without name, metadata, output and priority."""
    kept = {k: v for k, v in resolved.items() if k not in ("name", "metadata", "output", "budget")}
    kept["compute"] = {k: v for k, v in resolved.get("compute", {}).items() if k not in ("priority", "max_attempts")}
    canonical = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
