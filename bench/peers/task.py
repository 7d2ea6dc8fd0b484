"""What a peer's script is asked to do, as it finds it in task.json, and a clock for the parts of its work."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """The facts of the job that the peer is held against. Folders are transformers' own."""

    teacher: str
    student: str  # what training starts from, weights and tokenizer
    train: str  # rows, one JSON object a line
    validation: str  # judged after every epoch, on both sides
    out: str  # the trained student goes here
    epochs: int
    batch_size: int
    max_length: int
    learning_rate: float
    seed: int
    threads: int  # 0: a GPU if there is one
    variant: str = ""
    warmup_ratio: float = 0.06
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    soft_weight: float = 0.5  # of the teacher's softened classes; labels get the rest
    temperature: float = 2.0

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def given(cls) -> "Task":
        return cls(**json.loads(Path(sys.argv[1]).read_text()))


@dataclass
class Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 3)

    def write(self, out: str) -> None:
        (Path(out) / "seconds.json").write_text(json.dumps(self.seconds))


def rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
