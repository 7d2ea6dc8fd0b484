"""ONNX Runtime on CPU: pooling and normalisation are inside the graph, tokenising is the Rust tokenizer's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from app.serving.backends.base import Backend, BackendEntry, ModelCard, Outputs, Tokens

_INPUTS = {"input_ids", "attention_mask"}


class OnnxRuntime(Backend):
    formats: ClassVar[frozenset[str]] = frozenset({".onnx"})

    def __init__(self, session: Any, tokenizer: Any, card: ModelCard) -> None:
        self._session, self._tokenizer = session, tokenizer
        self.labels, self.embedding_dim, self.max_length = card.labels, card.embedding_dim, card.max_length
        offered = {output.name for output in session.get_outputs()}
        if {i.name for i in session.get_inputs()} != _INPUTS:
            raise ValueError(f"the graph takes {sorted(i.name for i in session.get_inputs())}, expected {sorted(_INPUTS)}")
        wanted = {"logits": bool(card.labels), "embedding": card.embedding_dim is not None}
        self._outputs = [name for name, needed in wanted.items() if needed]
        if missing := [name for name in self._outputs if name not in offered]:
            raise ValueError(f"the graph has no output {missing}; it has {sorted(offered)}")
        # tokenizer.json may pad to a fixed length and cut at another (MiniLM: both 128): we do both ourselves.
        self._pad = int((tokenizer.padding or {}).get("pad_id", 0))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        mask = tokenizer.encode("a").special_tokens_mask
        self._suffix = next((i for i, special in enumerate(reversed(mask)) if not special), 0)

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

    def prepare(self, texts: Sequence[str]) -> list[Tokens]:
        return [self._cut(encoding.ids) for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def _cut(self, ids: list[int]) -> Tokens:
        """Keep the leading specials and text up to the limit, then the closing specials."""
        if len(ids) <= self.max_length:
            return Tokens(ids, False)
        end = len(ids) - self._suffix
        return Tokens(ids[: self.max_length - self._suffix] + ids[end:], True)

    def forward(self, rows: Sequence[Sequence[int]]) -> Outputs:
        if len(rows) == 1:
            ids = np.array(rows, dtype=np.int64)
            mask = np.ones_like(ids)
        else:
            ids = np.full((len(rows), max(map(len, rows))), self._pad, dtype=np.int64)
            mask = np.zeros_like(ids)
            for n, row in enumerate(rows):
                ids[n, : len(row)] = row
                mask[n, : len(row)] = 1
        found = dict(zip(self._outputs, self._session.run(self._outputs, {"input_ids": ids, "attention_mask": mask}), strict=True))
        return Outputs(found.get("logits"), found.get("embedding"))

    def close(self) -> None:
        self._session = self._tokenizer = None
