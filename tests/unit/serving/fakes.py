"""A backend that fails where a test says so."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from app.serving.backends.base import Backend, BackendEntry, ModelCard, Outputs, Text, Tokens


class FakeBackend(Backend):
    """Token ids are the code points; logits are [length, first id]; what `boom` holds raises, on tokenising or forward."""

    formats: ClassVar[frozenset[str]] = frozenset({".fake"})

    def __init__(self, seconds: float = 0.0) -> None:
        self.max_length, self.embedding_dim, self.labels = 512, 2, ("a", "b")
        self.seconds = seconds
        self.batches: list[list[str]] = []
        self.boom: dict[str, BaseException] = {}
        self.boom_prepare: dict[str, BaseException] = {}
        self.nan: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.closed = False

    @classmethod
    def load(cls, folder: Path, entry: BackendEntry, card: ModelCard, threads: int) -> Self:
        return cls()

    def prepare(self, texts: Sequence[Text]) -> list[Tokens]:
        for text in texts:
            if text in self.boom_prepare:
                raise self.boom_prepare[text]
        return [Tokens([ord(c) for c in text], False) for text in texts if isinstance(text, str)]

    def forward(self, rows: Sequence[Tokens]) -> Outputs:
        texts = ["".join(map(chr, row.ids)) for row in rows]
        self.batches.append(texts)
        self.gate.wait(10)
        if self.seconds:
            time.sleep(self.seconds)
        for text in texts:
            if text in self.boom:
                raise self.boom[text]
        values = np.array([[len(t), ord(t[0]) / 100] for t in texts], np.float32)
        values[[t in self.nan for t in texts]] = np.nan
        return Outputs(values, values)

    def close(self) -> None:
        self.closed = True
