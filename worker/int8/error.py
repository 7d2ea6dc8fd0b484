"""A graph's answers, and how far an INT8 graph's are from its float graph's.

N rows, C classes, D hidden.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Feed = dict[str, NDArray[np.int64]]  # input name → [B, T], padded; `attention_mask` says what is real
Answer = dict[str, NDArray[np.float32]]  # output name → rows [N, C]
_MOST_VALUES = 2**20  # kept of one output of one feed


def open_session(path: Path) -> Any:
    """On one thread and with serving's optimisations: what is measured is what is served."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # a plan per input shape
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def answers(path: Path, feeds: Sequence[Feed]) -> list[Answer]:
    """All outputs of the ONNX file for each feed, as rows [N, C] of what is real, thinned evenly where they would fill memory.

    A masked language model answers with its vocabulary for every token; an even choice of those rows is enough.
    """
    session = open_session(path)
    names = [output.name for output in session.get_outputs()]
    found = []
    for feed in feeds:
        values = zip(names, session.run(names, feed), strict=True)
        found.append({name: _thinned(real_rows(value, feed["attention_mask"])) for name, value in values})
    return found


def real_rows(values: NDArray[np.float32], mask_BT: NDArray[np.int64]) -> NDArray[np.float32]:
    """[N, last]: rows of real tokens of a tensor [B, T, last], all rows of one without tokens."""
    if values.ndim == 3 and values.shape[:2] == mask_BT.shape:
        return values[mask_BT > 0]
    return values.reshape(-1, values.shape[-1])


def _thinned(values_NC: NDArray[np.float32]) -> NDArray[np.float32]:
    every = max(1, -(-values_NC.size // _MOST_VALUES))
    return values_NC[::every].copy()


def output_error(expected: Sequence[Answer], found: Sequence[Answer]) -> dict[str, float]:
    """Over all rows.

    relative   the largest over the outputs of |y' - y|_F / |y|_F; what schemes minimise
    kl         mean_N KL(softmax y ‖ softmax y') of `logits`, in nats, where there are two classes or more
    agreement  share of rows whose largest logit is the same one
    cosine     mean_N of y · y' / (|y| |y'|) of `embedding`
    Values that are not finite give relative = inf.
    """
    figures, relative = {}, 0.0
    for name in expected[0]:
        exact, close = (np.concatenate([answer[name] for answer in side]).astype(np.float64) for side in (expected, found))
        off = float(np.linalg.norm(close - exact) / max(float(np.linalg.norm(exact)), 1e-30))
        relative = max(relative, off if np.isfinite(off) else float("inf"))
        if name == "logits" and exact.shape[1] > 1:
            log_p, log_q = _log_softmax(exact), _log_softmax(close)
            figures["kl"] = float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())
            figures["agreement"] = float((exact.argmax(axis=1) == close.argmax(axis=1)).mean())
        if name == "embedding":
            lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(close, axis=1)
            figures["cosine"] = float(((exact * close).sum(axis=1) / np.maximum(lengths, 1e-30)).mean())
    return {"relative": relative, **figures}


def _log_softmax(logits_NC: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits_NC - logits_NC.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
