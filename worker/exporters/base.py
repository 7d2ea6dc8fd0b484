"""What an exporter is: it reads a trained transformers folder and writes one servable form of it."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from worker.heads.base import Head
from worker.plugins import PluginParams


class Exporter(ABC):
    """One file per format: class with `name`, pydantic `Params` and a docstring. Same weights must give the same bytes."""

    name: ClassVar[str]

    class Params(PluginParams):
        pass

    def __init__(self, **params: Any) -> None:
        self.params: Any = self.Params.model_validate(params)

    @abstractmethod
    def export(self, model_dir: Path, out_dir: Path, head: Head) -> Path:
        """Write the exported form of `model_dir` (a transformers folder of this task) into `out_dir`; returns its main file."""
