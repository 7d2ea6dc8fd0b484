"""What a runtime must offer to serve a student. `backends/<name>.py` holds the class; retort.json says which file it opens."""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

FloatArray = NDArray[np.float32]


class BackendEntry(BaseModel):
    """One servable file of an artifact, in the order of preference."""

    model_config = ConfigDict(extra="allow", frozen=True)
    backend: str
    file: str
    precision: str = "float32"


class ModelCard(BaseModel):
    """retort.json: what the artifact answers and how. Unknown fields are kept for later readers."""

    model_config = ConfigDict(extra="allow", frozen=True)
    format: Literal[1]
    kind: str
    task: str | None = None
    labels: tuple[str, ...] = ()
    max_length: int = Field(default=512, ge=4, le=131072)
    embedding_dim: int | None = Field(default=None, ge=1)
    pooling: str = "mean"
    normalize: bool = True
    backends: tuple[BackendEntry, ...] = ()


class Tokens(NamedTuple):
    """One text as the model sees it: at most `max_length` ids, special tokens included."""

    ids: list[int]
    truncated: bool


class Outputs(NamedTuple):
    """Rows in the order given. logits [B, C] float32, embedding [B, E] float32; None where the graph has no such head."""

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
    def prepare(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenise."""

    @abstractmethod
    def forward(self, rows: Sequence[Sequence[int]]) -> Outputs:
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
