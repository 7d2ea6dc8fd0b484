"""What a runtime must offer to serve a student. `backends/<name>.py` holds the class; retort.json says which file it opens."""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

FloatArray = NDArray[np.float32]
Text = str | tuple[str, str]  # a pair for a model that judges pairs
Problem = Literal["single_label", "multi_label", "regression", "tokens", "embedding", "ranking", "masked_lm"]


class BackendEntry(BaseModel):
    """One servable file of an artifact, in the order of preference."""

    model_config = ConfigDict(extra="allow", frozen=True)
    backend: str
    file: str
    precision: str = "float32"


class ModelCard(BaseModel):
    """retort.json: what the artifact answers and how. Unknown fields are kept for later readers; null is as good as absent."""

    model_config = ConfigDict(extra="allow", frozen=True)
    format: Literal[1]
    kind: str
    task: str | None = None
    problem: Problem = "single_label"
    pairs: bool = False
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    scorer: Literal["cross_encoder", "bi_encoder"] | None = None
    labels: tuple[str, ...] = ()
    max_length: int = Field(default=512, ge=4, le=131072)
    embedding_dim: int | None = Field(default=None, ge=1)
    pooling: str = "mean"
    normalize: bool = True
    backends: tuple[BackendEntry, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, card: Any) -> Any:
        return {name: value for name, value in card.items() if value is not None} if isinstance(card, dict) else card

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.problem in ("multi_label", "tokens") and not self.labels:
            raise ValueError(f"a {self.problem} model needs labels")
        return self

    @property
    def cross_encoder(self) -> bool:
        return self.problem == "ranking" and (self.scorer or ("cross_encoder" if self.pairs else "bi_encoder")) == "cross_encoder"

    @property
    def judges_pairs(self) -> bool:
        """A bi-encoder is trained on pairs and reads single texts."""
        return self.cross_encoder or (self.pairs and self.problem in ("single_label", "multi_label", "regression"))

    @property
    def logits_width(self) -> int | None:
        """C of the graph's `logits`; None when it has none."""
        if self.problem in ("embedding", "masked_lm") or (self.problem == "ranking" and not self.cross_encoder):
            return None
        return 1 if self.problem in ("regression", "ranking") else len(self.labels) or None

    @property
    def vector_width(self) -> int | None:
        """E of the graph's `embedding`; None when it has none, or none of a single text."""
        return None if self.judges_pairs or self.problem == "tokens" else self.embedding_dim


class Tokens(NamedTuple):
    """One text or pair as the model sees it: at most `max_length` ids, special tokens included.

    `types` [T]: token type ids, where the graph wants them. `words` [W, 3] int32, for a model that labels words: the place of
    each word's first sub-word among `ids`, and where the word starts and ends in the text.
    """

    ids: list[int]
    truncated: bool
    types: list[int] | None = None
    words: NDArray[np.int32] | None = None


class Outputs(NamedTuple):
    """Rows in the order given; None where the graph has no such head. All float32.

    logits [B, C], or [B, T, C] of a model that labels tokens; embedding [B, E].
    """

    logits: FloatArray | None
    embedding: FloatArray | None


class Backend(ABC):
    """One loaded model. `prepare` and `forward` are called from several threads at once; both release the GIL while they work."""

    formats: ClassVar[frozenset[str]]  # suffixes of the files it opens

    max_length: int
    embedding_dim: int | None
    labels: tuple[str, ...]

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, entry: BackendEntry, card: ModelCard, threads: int) -> Self:
        """Open the verified folder. ValueError says what does not fit."""

    @abstractmethod
    def prepare(self, texts: Sequence[Text]) -> list[Tokens]:
        """Tokenise."""

    @abstractmethod
    def forward(self, rows: Sequence[Tokens]) -> Outputs:
        """Run one batch; rows are padded to the longest of them."""

    @abstractmethod
    def close(self) -> None:
        """Give the memory back."""


def names() -> list[str]:
    """The backends that this installation's source has; their runtimes are imported only when one is used."""
    package: Any = importlib.import_module(__package__ or "")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name != "base")


def backend_class(name: str) -> type[Backend]:
    """The class of `backends/<name>.py`. LookupError: no such file; ImportError: its runtime is not installed."""
    if name not in names():
        raise LookupError(f"no serving backend '{name}'; there are: {', '.join(names())}")
    module = importlib.import_module(f"{__package__}.{name}")
    found = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Backend) and c.__module__ == module.__name__]
    if len(found) != 1:
        raise LookupError(f"backends/{name}.py must define exactly one Backend")
    return found[0]
