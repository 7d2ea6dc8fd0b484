"""What a quantizer is: it reads the float ONNX graph of a student and writes a smaller one with the same inputs and outputs."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from worker.plugins import PluginParams


@dataclass(frozen=True)
class QuantReport:
    """What was done. `file` is None when the scheme leaves the float graph as it is."""

    scheme: str
    file: str | None
    bytes: int
    quantized: list[str] = field(default_factory=list)  # weights that became INT8
    kept_float: list[str] = field(default_factory=list)  # weight matrices that did not

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Quantizer(ABC):
    """One file per scheme: class with `name`, pydantic `Params` and a docstring with equation, bounds and source."""

    name: ClassVar[str]

    class Params(PluginParams):
        pass

    def __init__(self, **params: Any) -> None:
        self.params: Any = self.Params.model_validate(params)

    @abstractmethod
    def quantize(self, source: Path, out_dir: Path) -> QuantReport:
        """Read the ONNX file `source`, write into `out_dir`."""
