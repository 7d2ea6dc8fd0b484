"""What a student initialiser is: it makes the model that training starts from, in transformers' form, with the task's head."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field
from transformers import PreTrainedModel

from worker.heads.base import Head
from worker.plugins import PluginParams
from worker.surgery import trimming
from worker.surgery.parts import Part, frozen_patterns
from worker.surgery.trimming import TrimVocabulary


@dataclass(frozen=True)
class Origin:
    """What a student may be made from. Records are prepared ones, as `worker/phases/prepare.py` writes them."""

    teacher_dir: Path  # the fitted teacher
    student_dir: Path | None  # the pretrained student, when one was asked for
    head: Head  # the student's
    teacher_head: Head
    sample: Sequence[dict[str, Any]]  # training records to measure activations on: the first 2048
    max_length: int
    scratch: Path  # a folder for what an initialiser writes, such as a tokenizer of its own
    corpus: Sequence[dict[str, Any]] = ()  # all training records; the sample when empty
    held_out: Sequence[dict[str, Any]] = ()  # validation records


class StudentParams(PluginParams):
    freeze: list[Part] = Field(
        default=[],
        description="Parts whose weights do not train: embeddings, attention, ffn, head. They keep what they start with.",
    )
    trim_vocabulary: bool | TrimVocabulary = Field(
        default=False,
        description="Keep only the tokens that the job's rows use, the commonest others, and single characters or bytes to "
        "spell unseen words with. Most of a small student's bytes are its token table. true: as by default.",
    )


class StudentInit(ABC):
    """Subclasses give `name`, `Params` and `make`; `plan` says in words and numbers what was inherited, for the report.

    plan["frozen_patterns"] are regular expressions (re.search) on the names of parameters that shall not train, whatever a
    stage trains.
    """

    name: ClassVar[str]
    speaks: ClassVar[Literal["teacher_dir", "student_dir"]] = "teacher_dir"  # whose tokenizer the student has

    class Params(StudentParams):
        pass

    def __init__(self, **params: Any) -> None:
        self.params: Any = self.Params.model_validate(params)
        self.plan: dict[str, Any] = {}

    def build(self, origin: Origin) -> PreTrainedModel:
        """The model before training, float32, with the task's head; the caller has seeded torch."""
        self.plan = {"init": self.name}
        if self.params.trim_vocabulary:
            origin = self._trimmed(origin)
        model = self.make(origin)
        self.plan["frozen_patterns"] = frozen_patterns(model, self.params.freeze)
        self.plan["parameters"] = sum(p.numel() for p in model.parameters())
        return model

    @abstractmethod
    def make(self, origin: Origin) -> PreTrainedModel:
        """See `build`; the vocabulary is settled: `origin` names the folder with the tokenizer that the student will have."""

    def tokenizer_dir(self, origin: Origin) -> Path:
        """Where the student's tokenizer lies; after `build`."""
        folder: Path = origin.scratch / "trimmed" if self.params.trim_vocabulary else getattr(origin, self.speaks)
        return folder

    def _trimmed(self, origin: Origin) -> Origin:
        """With the model that the student speaks like replaced by its copy with fewer tokens: the same on the job's texts."""
        wanted = self.params.trim_vocabulary
        options = TrimVocabulary() if wanted is True else wanted
        head = origin.teacher_head if self.speaks == "teacher_dir" else origin.head
        out = origin.scratch / "trimmed"
        corpus = trimming.texts_of(origin.corpus or origin.sample)
        self.plan["vocabulary"] = trimming.trim(
            getattr(origin, self.speaks), out, head.load, corpus, trimming.texts_of(origin.held_out), options
        )
        return replace(origin, teacher_dir=out) if self.speaks == "teacher_dir" else replace(origin, student_dir=out)
