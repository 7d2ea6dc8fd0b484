"""What a quantizer is: it reads the float ONNX graph of a student and writes a smaller one with the same inputs and outputs."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from worker.int8.error import Answer, Feed, answers
from worker.plugins import PluginParams


@dataclass(frozen=True)
class Calibration:
    """Batches of real training rows, on which a scheme measures activations and what it costs."""

    graph: Path  # the float graph
    feeds: list[Feed]

    @property
    def rows(self) -> int:
        return sum(len(feed["attention_mask"]) for feed in self.feeds)

    @cached_property
    def reference(self) -> list[Answer]:
        """The float graph's outputs, one per feed; computed when first asked for."""
        return answers(self.graph, self.feeds)


@dataclass(frozen=True)
class Fallback:
    """A matrix that stayed in higher precision, and what that did to the output error on the calibration rows."""

    matrix: str
    form: str
    error_before: float
    error_after: float


@dataclass(frozen=True)
class QuantReport:
    """What was done. `file` is None when the scheme leaves the float graph as it is."""

    scheme: str
    file: str | None
    bytes: int
    quantized: list[str] = field(default_factory=list)  # weights that are held in fewer bits
    kept_float: list[str] = field(default_factory=list)  # weight matrices that did not
    fallbacks: list[Fallback] = field(default_factory=list)  # in the order in which they were made
    precision: str = "int8"  # of the file, for whoever chooses what to serve
    error: dict[str, float] = field(default_factory=dict)  # against the float graph, on the calibration rows

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Quantizer(ABC):
    """One file per scheme: class with `name`, pydantic `Params` and a docstring with equation, bounds and source."""

    name: ClassVar[str]
    trains: ClassVar[bool] = False  # whether the student is first trained with this scheme's arithmetic

    class Params(PluginParams):
        pass

    def __init__(self, **params: Any) -> None:
        self.params: Any = self.Params.model_validate(params)

    @abstractmethod
    def quantize(self, source: Path, out_dir: Path, calibration: Calibration) -> QuantReport:
        """Read the ONNX file `source`, write into `out_dir`."""
