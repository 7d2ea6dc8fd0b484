"""What a student initialiser is: it makes the model that training starts from, as a standard transformers classifier."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedModel

from worker.plugins import PluginParams


@dataclass(frozen=True)
class Origin:
    """What a student may be made from."""

    teacher_dir: Path  # the fitted teacher
    student_dir: Path | None  # the pretrained student, when one was asked for
    labels: list[str]
    sample_texts: list[str]  # a few training texts, to measure activations on
    max_length: int


class StudentInit(ABC):
    """Subclasses give `name`, `Params` and `build`; `plan` says in words and numbers what was inherited, for the report."""

    name: ClassVar[str]

    class Params(PluginParams):
        pass

    def __init__(self, **params: Any) -> None:
        self.params: Any = self.Params.model_validate(params)
        self.plan: dict[str, Any] = {}

    @abstractmethod
    def build(self, origin: Origin) -> PreTrainedModel:
        """The model before training, float32, with `id2label` set; the caller has seeded torch."""

    @abstractmethod
    def tokenizer_dir(self, origin: Origin) -> Path:
        """Where the student's tokenizer lies. It must equal the teacher's: logits are cached per row of the same ids."""
