"""Rows to batches: tokenised once, bucketed by length, shuffled the same way for the same (seed, epoch).

Shapes: B rows, T tokens (the longest row of the batch).
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NO_LABEL = -100  # a row the teacher alone speaks about; cross-entropy's own ignore value
BUCKET_BATCHES = 32  # rows are sorted by length within runs of this many batches: little padding, still well mixed


@dataclass(frozen=True)
class Rows:
    """Tokenised rows of one split; `ids` are the rows' own ids, by which teacher outputs are kept."""

    ids: list[int]
    tokens: list[list[int]]
    labels: list[int]  # NO_LABEL where unknown
    pad_id: int

    def __len__(self) -> int:
        return len(self.ids)

    def used_tokens(self) -> set[int]:
        return {token for row in self.tokens for token in row}

    def only(self, keep: Sequence[int]) -> "Rows":
        return Rows([self.ids[i] for i in keep], [self.tokens[i] for i in keep], [self.labels[i] for i in keep], self.pad_id)

    def labelled(self) -> "Rows":
        return self.only([i for i, label in enumerate(self.labels) if label != NO_LABEL])


@dataclass(frozen=True)
class Batch:
    index_B: Tensor  # positions in Rows
    input_ids_BT: Tensor
    attention_mask_BT: Tensor
    labels_B: Tensor

    @property
    def tokens(self) -> int:
        return int(self.attention_mask_BT.sum())


def tokenize(records: Sequence[dict[str, Any]], tokenizer: Any, max_length: int) -> Rows:
    """Records {id, text, label} to token ids, cut at `max_length`."""
    texts = [record["text"] for record in records]
    encoded = tokenizer(texts, truncation=True, max_length=max_length, padding=False)["input_ids"] if texts else []
    labels = [NO_LABEL if record["label"] is None else int(record["label"]) for record in records]
    return Rows([int(record["id"]) for record in records], [list(row) for row in encoded], labels, int(tokenizer.pad_token_id or 0))


def order(rows: Rows, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch as row positions; a pure function of its arguments, so a resume finds its place again."""
    rng = random.Random(f"{seed}:{epoch}")
    shuffled = list(range(len(rows)))
    rng.shuffle(shuffled)
    batches: list[list[int]] = []
    run = batch_size * BUCKET_BATCHES
    for start in range(0, len(shuffled), run):
        chunk = sorted(shuffled[start : start + run], key=lambda i: len(rows.tokens[i]))
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    rng.shuffle(batches)
    return batches


def by_length(rows: Rows, batch_size: int) -> list[list[int]]:
    """Batches for a pass without gradients, in order of length: no row is padded much."""
    ordered = sorted(range(len(rows)), key=lambda i: len(rows.tokens[i]))
    return [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]


def collate(rows: Rows, positions: Sequence[int], remap: Callable[[Tensor], Tensor] | None = None) -> Batch:
    """Pad to the longest row of the batch; `remap` turns vocabulary ids into a compact table's."""
    longest = max(len(rows.tokens[i]) for i in positions)
    ids_BT = torch.full((len(positions), longest), rows.pad_id, dtype=torch.long)
    mask_BT = torch.zeros((len(positions), longest), dtype=torch.long)
    for b, i in enumerate(positions):
        row = rows.tokens[i]
        ids_BT[b, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask_BT[b, : len(row)] = 1
    return Batch(
        index_B=torch.tensor(positions, dtype=torch.long),
        input_ids_BT=remap(ids_BT) if remap else ids_BT,
        attention_mask_BT=mask_BT,
        labels_B=torch.tensor([rows.labels[i] for i in positions], dtype=torch.long),
    )
