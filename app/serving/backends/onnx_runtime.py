"""ONNX Runtime on CPU: pooling and normalisation are inside the graph, tokenising is the Rust tokenizer's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from app.serving.backends.base import Backend, BackendEntry, ModelCard, Outputs, Text, Tokens
from app.serving.truncation import kept
from app.serving.words import words

_T = TypeVar("_T")
_NEEDED, _TYPES = {"input_ids", "attention_mask"}, "token_type_ids"


class OnnxRuntime(Backend):
    formats: ClassVar[frozenset[str]] = frozenset({".onnx"})

    def __init__(self, session: Any, tokenizer: Any, card: ModelCard) -> None:
        self._session, self._tokenizer = session, tokenizer
        self.labels, self.embedding_dim, self.max_length = card.labels, card.embedding_dim, card.max_length
        takes, promised = {i.name for i in session.get_inputs()}, set(card.inputs)
        if takes != promised or takes - {_TYPES} != _NEEDED:
            expected = f"retort.json says {sorted(promised)}; {sorted(_NEEDED)} and perhaps {_TYPES} can be given"
            raise ValueError(f"the graph takes {sorted(takes)}, {expected}")
        self._types, self._by_words = _TYPES in takes, card.problem == "tokens"
        offered = {output.name for output in session.get_outputs()}
        wanted = {"logits": card.logits_width, "embedding": card.vector_width}
        self._outputs = [name for name, width in wanted.items() if width is not None]
        if not self._outputs:
            raise ValueError("retort.json names neither labels nor an embedding")
        if missing := [name for name in self._outputs if name not in offered]:
            raise ValueError(f"the graph has no output {missing}; it has {sorted(offered)}")
        # tokenizer.json may pad to a fixed length and cut at another (MiniLM: both 128): we do both ourselves.
        self._pad = int((tokenizer.padding or {}).get("pad_id", 0))
        tokenizer.no_padding()
        tokenizer.no_truncation()

    @classmethod
    def load(cls, folder: Path, entry: BackendEntry, card: ModelCard, threads: int) -> Self:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads  # OMP_NUM_THREADS does not bind this runtime
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.enable_mem_pattern = False  # a plan per input shape: lengths vary, so it would only grow
        options.log_severity_level = 3
        for key in ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning"):
            options.add_session_config_entry(key, "0")  # a spinning thread beside a busy neighbour costs tenfold
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        session = onnxruntime.InferenceSession(str(folder / entry.file), options, providers=["CPUExecutionProvider"])
        return cls(session, Tokenizer.from_file(str(folder / "tokenizer.json")), card)

    def prepare(self, texts: Sequence[Text]) -> list[Tokens]:
        if self._by_words:
            return self._prepare_words(texts)
        return [self._row(encoding) for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def _prepare_words(self, texts: Sequence[Text]) -> list[Tokens]:
        single = [text for text in texts if isinstance(text, str)]
        if len(single) < len(texts):
            raise ValueError("a model that labels words reads no pairs")
        spans = [words(text) for text in single]
        split = [[text[start:end] for start, end in places] for text, places in zip(single, spans, strict=True)]
        encodings = self._tokenizer.encode_batch(split, is_pretokenized=True)  # the fast one forgets which word a token is of
        return [self._row(encoding, places) for encoding, places in zip(encodings, spans, strict=True)]

    def _row(self, encoding: Any, spans: list[tuple[int, int]] | None = None) -> Tokens:
        ids = encoding.ids
        owners: list[int | None] = [] if spans is None else encoding.word_ids
        truncated = len(ids) > self.max_length
        texts: list[int | None] = encoding.sequence_ids if truncated or self._types else []
        if truncated:
            parts = kept(texts, self.max_length)
            ids, texts, owners = _joined(ids, parts), _joined(texts, parts), _joined(owners, parts)
        types = _type_ids(texts) if self._types else None
        return Tokens(ids, truncated, types, None if spans is None else _first_subwords(owners, spans))

    def forward(self, rows: Sequence[Tokens]) -> Outputs:
        ids = self._matrix([row.ids for row in rows], self._pad)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        if len(rows) > 1:
            for n, row in enumerate(rows):
                feed["attention_mask"][n, len(row.ids) :] = 0
        if self._types:
            feed[_TYPES] = self._matrix([row.types or [] for row in rows], 0)
        found = dict(zip(self._outputs, self._session.run(self._outputs, feed), strict=True))
        return Outputs(found.get("logits"), found.get("embedding"))

    @staticmethod
    def _matrix(rows: list[list[int]], fill: int) -> NDArray[np.int64]:
        if len(rows) == 1:
            return np.array(rows, dtype=np.int64)
        matrix = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
        for n, row in enumerate(rows):
            matrix[n, : len(row)] = row
        return matrix

    def close(self) -> None:
        self._session = self._tokenizer = None


def _type_ids(texts: list[int | None]) -> list[int]:
    """1 from the second text's first token on, as in training, whatever the file's template says."""
    first = texts.index(1) if 1 in texts else len(texts)
    return [0] * first + [1] * (len(texts) - first)


def _joined(column: list[_T], parts: list[slice]) -> list[_T]:
    return [x for part in parts for x in column[part]]


def _first_subwords(owners: list[int | None], spans: list[tuple[int, int]]) -> NDArray[np.int32]:
    """[W, 3]: where each word's first token is, where the word starts and ends; a word without tokens is left out."""
    before = [None, *owners]
    found = [(n, *spans[w]) for n, (w, last) in enumerate(zip(owners, before, strict=False)) if w is not None and w != last]
    return np.array(found, dtype=np.int32).reshape(-1, 3)
