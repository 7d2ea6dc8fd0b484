"""A graph's answers, and how far an INT8 graph's are from its float graph's.

N rows, C classes, D hidden.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Feed = dict[str, NDArray[np.int64]]  # input name → [B, T], padded; `attention_mask` says what is real
Answer = dict[str, NDArray[np.float32]]  # output name → values


def open_session(path: Path) -> Any:
    """On one thread and with serving's optimisations: what is measured is what is served."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # a plan per input shape
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def answers(path: Path, feeds: Sequence[Feed]) -> list[Answer]:
    """All outputs of the ONNX file for each feed."""
    session = open_session(path)
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, feed), strict=True)) for feed in feeds]


def output_error(expected: Sequence[Answer], found: Sequence[Answer], masks: Sequence[NDArray[np.int64]]) -> dict[str, float]:
    """Over all batches; outputs with one value per token count real tokens only.

    relative   the largest over the outputs of |y' - y|_F / |y|_F; what schemes minimise
    kl         mean_N KL(softmax y ‖ softmax y') of `logits`, in nats, where there are two classes or more
    agreement  share of rows whose largest logit is the same one
    cosine     mean_N of y · y' / (|y| |y'|) of `embedding`
    Not finite values give relative = inf.
    """
    figures, relative = {}, 0.0
    for name in expected[0]:
        exact, close = (_rows([answer[name] for answer in answers], masks) for answers in (expected, found))
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


def _rows(outputs: Sequence[NDArray[np.float32]], masks: Sequence[NDArray[np.int64]]) -> Doubles:
    """[N, C] float64, of real tokens where an output has them."""
    return np.concatenate([real_rows(values, mask) for values, mask in zip(outputs, masks, strict=True)]).astype(np.float64)


def real_rows(values: NDArray[np.float32], mask_BT: NDArray[np.int64]) -> NDArray[np.float32]:
    """[R, last]: rows of real tokens of a tensor [B, T, last], all rows of one without tokens."""
    if values.ndim == 3 and values.shape[:2] == mask_BT.shape:
        return values[mask_BT > 0]
    return values.reshape(-1, values.shape[-1])


def _log_softmax(logits_NC: Doubles) -> Doubles:
    shifted = logits_NC - logits_NC.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
