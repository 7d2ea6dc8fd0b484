"""What evaluation works on: ONNX sessions as serving opens them, and their answers to rows, in the shape the task's head gives.

B sequences, T tokens, C classes, D hidden.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worker.heads.base import Head, Outputs
from worker.rows import Batch, Rows, by_length, collate
from worker.signals import Signals

Feed = dict[str, NDArray[np.int64]]
Stop = Callable[[], None]


def open_session(path: Path, threads: int) -> Any:
    """An ONNX Runtime session with serving's options, so that what is measured is what is served.

    Except `set_denormal_as_zero`: that switches the calling thread for good, and this process still computes with torch.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    for key in ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning"):
        options.add_session_config_entry(key, "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feed_of(batch: Batch, names: Sequence[str]) -> Feed:
    """What a session with these inputs takes."""
    types = batch.token_types_BT if batch.token_types_BT is not None else torch.zeros_like(batch.input_ids_BT)
    given = {"input_ids": batch.input_ids_BT, "attention_mask": batch.attention_mask_BT, "token_type_ids": types}
    return {name: given[name].numpy() for name in names}


def feeds(rows: Rows, names: Sequence[str], batch_size: int) -> list[Feed]:
    """Sequences, each for itself, in batches of about one length, shortest first."""
    flat = rows.sequences()
    return [feed_of(collate(flat, which), names) for which in by_length(flat, batch_size)]


def onnx_outputs(session: Any, head: Head, rows: Rows, batch_size: int, stop: Stop = lambda: None) -> Outputs:
    """As `Head.predict`, of an exported model."""
    inputs, outputs = [i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()]
    found: list[tuple[list[int], Signals, Batch]] = []
    for n, examples in enumerate(by_length(rows, batch_size)):
        stop()
        batch = collate(rows, examples, n)
        said = dict(zip(outputs, session.run(outputs, feed_of(batch, inputs)), strict=True))
        logits = torch.from_numpy(said["logits"]) if "logits" in said else None
        if logits is not None and batch.positions_BT is not None:
            logits = logits[batch.positions_BT]
        vectors = torch.from_numpy(said["embedding"]) if "embedding" in said else None
        found.append((examples, Signals(logits_NC=logits, embedding_BE=vectors), batch))
    return head.gather(rows, found)


def compare(expected: Outputs, found: Outputs, head: Head) -> dict[str, float]:
    """max_abs_logit_diff, min_cosine of the vectors, and the share of rows with the same argmax; what both have of it.

    Of a masked language model the log-probabilities of the masked words stand for its logits.
    """
    told: dict[str, float] = {}
    if expected.logits is not None and found.logits is not None:
        first, second = (np.concatenate(list(o.logits)) if isinstance(o.logits, list) else o.logits for o in (expected, found))
        if head.about.problem == "masked_lm":  # (P, 3): right or not, -log p, the guess
            told["max_abs_logit_diff"] = float(np.abs(first[:, 1] - second[:, 1]).max())
            told["agreement"] = float((first[:, 2] == second[:, 2]).mean())
        else:
            told["max_abs_logit_diff"] = float(np.abs(first - second).max())
            told["agreement"] = float((first.argmax(axis=1) == second.argmax(axis=1)).mean())
    if expected.embedding_BE is not None and found.embedding_BE is not None:
        first, second = (_unit(o.embedding_BE) for o in (expected, found))
        told["min_cosine"] = float((first * second).sum(axis=1).min())
    return told


def _unit(vectors_BE: Any) -> NDArray[np.float64]:
    found = np.asarray(vectors_BE, dtype=np.float64)
    result: NDArray[np.float64] = found / np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1e-12)
    return result
