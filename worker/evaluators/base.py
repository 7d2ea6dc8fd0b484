"""What evaluation works on: encoded rows, batches of them, and models that answer with logits and vectors.

B batch, T tokens, N rows, C classes, D hidden.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.plugins import PluginParams

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Stop = Callable[[], None]


class Evaluator(ABC):
    """One file per kind of task: class with `name`, `Params`, and a docstring that defines every figure."""

    name: ClassVar[str]

    class Params(PluginParams):
        pass

    def __init__(self, **params: Any) -> None:
        self.params: Any = self.Params.model_validate(params)

    @abstractmethod
    def evaluate(self, logits_NC: Floats, labels_N: Ints, names: Sequence[str], teacher_NC: Floats | None) -> dict[str, Any]:
        """Figures of one model; `teacher_NC` are the teacher's logits for the same rows."""


class Outputs(NamedTuple):
    """logits [N, C] and unit vectors [N, D], rows in the order of the encoded rows."""

    logits: Floats
    embedding: Floats


@dataclass(frozen=True)
class Encoded:
    """Rows as token ids, cut to the job's length, for one tokenizer."""

    ids: list[list[int]]
    pad_id: int

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int]) -> "Encoded":
        return Encoded([self.ids[r] for r in rows], self.pad_id)

    def batch(self, rows: Sequence[int]) -> tuple[Ints, Ints]:
        """(input_ids [B, T], attention_mask [B, T]), padded to the longest of these rows."""
        longest = max(len(self.ids[r]) for r in rows)
        ids_BT = np.full((len(rows), longest), self.pad_id, dtype=np.int64)
        mask_BT = np.zeros_like(ids_BT)
        for n, r in enumerate(rows):
            ids_BT[n, : len(self.ids[r])] = self.ids[r]
            mask_BT[n, : len(self.ids[r])] = 1
        return ids_BT, mask_BT

    def batches(self, size: int) -> Iterator[list[int]]:
        """Row numbers in batches of about one length, longest first, so that little is padded."""
        order = sorted(range(len(self.ids)), key=lambda r: (-len(self.ids[r]), r))
        for start in range(0, len(order), size):
            yield order[start : start + size]


def encode(model_dir: Path, texts: Sequence[str], max_length: int) -> Encoded:
    """With the tokenizer of this folder; texts are cut at `max_length` tokens, special tokens included."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    found = tokenizer(list(texts), truncation=True, max_length=max_length, padding=False) if texts else {"input_ids": []}
    return Encoded([list(ids) for ids in found["input_ids"]], int(tokenizer.pad_token_id or 0))


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


def run_session(session: Any, ids_BT: Ints, mask_BT: Ints) -> tuple[Floats, Floats]:
    logits, embedding = session.run(["logits", "embedding"], {"input_ids": ids_BT, "attention_mask": mask_BT})
    return logits, embedding


def onnx_outputs(session: Any, rows: Encoded, batch_size: int, stop: Stop = lambda: None) -> Outputs:
    return _gather(rows, batch_size, stop, lambda ids, mask: run_session(session, ids, mask))


def torch_outputs(model_dir: Path, rows: Encoded, batch_size: int, device: str = "cpu", stop: Stop = lambda: None) -> Outputs:
    """The trained model itself, in float32 through transformers; vectors are masked means of the last hidden state."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(model_dir, dtype=torch.float32).to(device).eval()

    def forward(ids_BT: Ints, mask_BT: Ints) -> tuple[Floats, Floats]:
        mask = torch.from_numpy(mask_BT).to(device)
        with torch.inference_mode():
            out = model(input_ids=torch.from_numpy(ids_BT).to(device), attention_mask=mask, output_hidden_states=True)
            weights = mask.unsqueeze(-1).float()
            mean = (out.hidden_states[-1].float() * weights).sum(1) / weights.sum(1).clamp(min=1.0)
            unit = torch.nn.functional.normalize(mean, dim=-1)
        return out.logits.float().cpu().numpy(), unit.cpu().numpy()

    return _gather(rows, batch_size, stop, forward)


def _gather(rows: Encoded, size: int, stop: Stop, forward: Callable[[Ints, Ints], tuple[Floats, Floats]]) -> Outputs:
    logits: list[Floats | None] = [None] * len(rows)
    vectors: list[Floats | None] = [None] * len(rows)
    for numbers in rows.batches(size):
        stop()
        answered = forward(*rows.batch(numbers))
        for n, r in enumerate(numbers):
            logits[r], vectors[r] = answered[0][n], answered[1][n]
    return Outputs(np.array(logits, dtype=np.float32), np.array(vectors, dtype=np.float32))
