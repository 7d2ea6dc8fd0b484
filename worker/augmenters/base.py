"""What an augmenter is: it makes rows out of the job's own for the teacher to label, or mixes them while they train."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from worker.heads.base import Head
from worker.plugins import PluginParams
from worker.writing.endpoint import Access
from worker.writing.journal import Journal

Record = dict[str, Any]  # a prepared row; see worker/phases/prepare.py


@dataclass(frozen=True)
class Scene:
    """What rows can be made with."""

    teachers: tuple[Path, ...]  # folders: the teacher as it answers, then the model that it was fitted from
    head: Head  # the teacher's: `head.about` says problem, labels and max_length
    device: torch.device
    dtype: torch.dtype  # of models that are only asked
    seed: int
    stop: Callable[[], None]  # raises when the job is asked to stop; call it often
    model: Path | None = None  # the model that the block names with source and model
    access: Access = field(default_factory=Access)  # to endpoints
    journal: Journal = field(default_factory=Journal)  # keeps what takes long to make; a resumed run finds it there


class Augmenter:
    """Subclasses give `name`, `Params`, and the kinds of targets that they are for in `problems`.

    What makes batches has no method: the training loop does what its parameters say.
    """

    name: ClassVar[str]
    makes: ClassVar[Literal["rows", "batches"]]
    problems: ClassVar[frozenset[str]]
    architectures: ClassVar[tuple[str, ...]] = ()  # in which that of the model ends that a block names

    class Params(PluginParams):
        pass

    def __init__(self, **params: Any) -> None:
        self.params: Any = self.Params.model_validate(params)


class WriterParams(PluginParams):
    """What every augmenter that makes rows can be told; the phase does it."""

    factor: float = Field(default=1.0, gt=0, le=100, description="New rows per training row, at most.")
    max_similarity: float = Field(
        default=0.9,
        ge=0.3,
        le=1,
        description="A new row goes when its trigram Jaccard similarity to a training row or an earlier new one is above this. "
        "1: only when it is the same text.",
    )
    min_confidence: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="A new row goes when the teacher's highest class probability is below this; for several labels the least "
        "certain decision counts, for words their mean.",
    )
    keep_label: bool = Field(
        default=False, description="A new row goes when the teacher's answer is not the label it was made for."
    )


class ModelParams(WriterParams):
    """One that has a model of its own."""

    source: Literal["registry", "local", "hub"] = Field(default="registry", description="Where that model comes from.")
    revision: str | None = Field(default=None, max_length=100, description="Of a model of the hub.")


class Writer(Augmenter, ABC):
    """Makes rows. `meant` names the problems in which a new row is meant to have its parent's label."""

    makes = "rows"
    meant: ClassVar[frozenset[str]] = frozenset()

    class Params(WriterParams):
        pass

    def usage(self) -> dict[str, int]:
        """What it has asked of others; empty for one that asks nobody."""
        return {}

    @abstractmethod
    def write(self, records: Sequence[Record], scene: Scene) -> Iterator[Record]:
        """New records with the fields of their task, without "id", with "label" None and "source" as `made` gives it.

        The same records, parameters and seed give the same rows on a CPU. The caller stops taking when it has enough.
        """

    def made(self, parent: Record, **fields: Any) -> Record:
        """A copy of the parent with other texts: nobody has labelled it yet."""
        record = {name: value for name, value in parent.items() if name != "id"}
        return {**record, **fields, "label": None, "source": {"augmenter": self.name, "parent": parent["id"]}}


def alone(record: Record, scene: Scene) -> Record:
    """Without the second text of a pair to embed: nothing says how like the first it would still be, and one text is a row too."""
    if scene.head.about.problem != "embedding":
        return record
    return {name: value for name, value in record.items() if name != "text_b"}
