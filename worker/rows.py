"""Rows to batches: tokenised once, bucketed by length, shuffled the same way for the same (seed, epoch).

A sequence is what the model reads and the teacher answers; an example is what is shuffled. They are the same thing except
for ranking (an example is a query's group of sequences) and scored pairs of texts (an example is two of them).

Shapes: B sequences of a batch, T tokens (the longest of them), N positions that count, G examples, K members of the largest.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

NO_LABEL = -100  # a row the teacher alone speaks about; cross-entropy's own ignore value
BUCKET_BATCHES = 32  # examples are sorted by length within runs of this many batches: little padding, still well mixed


@dataclass(frozen=True)
class Masking:
    """Dynamic masking of BERT: of `share` of the tokens 80 % become [MASK], 10 % another token, 10 % stay. arXiv 1810.04805."""

    mask_id: int
    vocabulary: int
    special: frozenset[int]
    share: float = 0.15


@dataclass(frozen=True)
class Mix:
    """Mixed rows: e ← share · e + (1 − share) · e[partner]. Source: MixKD, arXiv 2011.00593."""

    share: float
    partner_B: Tensor


@dataclass(frozen=True)
class Rows:
    """Tokenised sequences of one split; `ids` are their own ids, by which teacher outputs are kept."""

    ids: list[int]
    tokens: list[list[int]]
    labels: list[Any]  # per example: what `problem` says; NO_LABEL, or NaN in a list, where unknown
    pad_id: int
    problem: str = "single_label"
    second: list[int] | None = None  # where the second text of a pair begins
    positions: list[list[int]] | None = None  # which tokens count, for token tasks; labels then have one list each
    sizes: list[int] | None = None  # sequences of each example; None: one each
    masking: Masking | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def examples(self) -> list[range]:
        """The sequences of every example."""
        if self.sizes is None:
            return [range(i, i + 1) for i in range(len(self.ids))]
        ends = np.cumsum(self.sizes).tolist()
        return [range(end - size, end) for end, size in zip(ends, self.sizes, strict=True)]

    @cached_property
    def flat(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """All tokens in one array, and where each sequence starts."""
        starts = np.zeros(len(self.tokens) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in self.tokens], out=starts[1:])
        return np.fromiter((t for row in self.tokens for t in row), dtype=np.int64, count=int(starts[-1])), starts

    def used_tokens(self) -> set[int]:
        return set(np.unique(self.flat[0]).tolist())

    def only(self, keep: Sequence[int]) -> "Rows":
        """Some examples."""
        which = [i for e in keep for i in self.examples[e]]

        def of(values: list[Any] | None, numbers: Sequence[int]) -> list[Any] | None:
            return None if values is None else [values[i] for i in numbers]

        return replace(
            self,
            ids=[self.ids[i] for i in which],
            tokens=[self.tokens[i] for i in which],
            labels=[self.labels[e] for e in keep],
            second=of(self.second, which),
            positions=of(self.positions, which),
            sizes=of(self.sizes, keep),
        )

    def sequences(self) -> "Rows":
        """The same sequences, each for itself and without labels: what a teacher is asked."""
        return self if self.sizes is None else replace(self, labels=[NO_LABEL] * len(self.ids), sizes=None, problem="single_label")

    def labelled(self) -> "Rows":
        return self.only([e for e in range(len(self.examples)) if has_label(self.labels[e])])


def has_label(label: Any) -> bool:
    if isinstance(label, list):
        return any(has_label(value) for value in label)
    return bool(label != NO_LABEL and label == label)


@dataclass(frozen=True)
class Batch:
    """`labels` by problem: (B,) int64 single_label; (B, C) float multi_label; (B,) float regression; (N,) int64 tokens and
    masked_lm; (G, K) float ranking; (G,) float embedding. Unknown is NO_LABEL, or NaN."""

    index_B: Tensor  # positions in Rows
    input_ids_BT: Tensor
    attention_mask_BT: Tensor
    labels: Tensor
    problem: str = "single_label"
    token_types_BT: Tensor | None = None
    positions_BT: Tensor | None = None  # bool: the positions that count
    sizes: tuple[int, ...] = ()  # sequences of each example
    examples: tuple[int, ...] = ()  # their numbers in Rows
    mix: Mix | None = None

    @property
    def tokens(self) -> int:
        return int(self.attention_mask_BT.sum())

    @property
    def members_GK(self) -> Tensor:  # noqa: N802
        """bool: where an example of ranking has a document."""
        sizes_G = torch.tensor(self.sizes, device=self.labels.device)
        return torch.arange(int(sizes_G.max()), device=self.labels.device)[None, :] < sizes_G[:, None]

    @property
    def count(self) -> int:
        """What a mean is taken over: rows, label decisions, positions or groups."""
        if self.problem in ("ranking", "embedding"):
            return len(self.sizes) if self.problem == "ranking" else len(self.index_B)
        return self.labels.numel()

    @property
    def labelled(self) -> int:
        if self.problem == "ranking":
            return int((~self.labels.isnan()).any(1).sum())
        return int((~self.labels.isnan()).sum() if self.labels.is_floating_point() else (self.labels != NO_LABEL).sum())

    def to(self, device: torch.device) -> "Batch":
        moved = {
            name: value.to(device, non_blocking=True)
            for name in ("input_ids_BT", "attention_mask_BT", "labels", "token_types_BT", "positions_BT")
            if (value := getattr(self, name)) is not None
        }
        return self if device.type == "cpu" else replace(self, **moved)


def tokenize(records: Sequence[dict[str, Any]], tokenizer: Any, max_length: int) -> Rows:
    """Records {id, text, label [, text_b]} to token ids, cut at `max_length`; a pair is cut at its longer text."""
    texts = [record["text"] for record in records]
    pairs = [record["text_b"] for record in records] if records and records[0].get("text_b") is not None else None
    given = (texts,) if pairs is None else (texts, pairs)
    encoded: Any = tokenizer(*given, truncation=True, max_length=max_length, padding=False) if texts else {"input_ids": []}
    tokens = [list(row) for row in encoded["input_ids"]]
    second = None
    if pairs is not None:
        second = [_second(encoded.sequence_ids(i)) for i in range(len(tokens))]
    labels = [NO_LABEL if record["label"] is None else record["label"] for record in records]
    return Rows([int(record["id"]) for record in records], tokens, labels, int(tokenizer.pad_token_id or 0), second=second)


def _second(sequence_ids: list[int | None]) -> int:
    return next((n for n, which in enumerate(sequence_ids) if which == 1), len(sequence_ids))


def order(rows: Rows, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch as example numbers; a pure function of its arguments, so a resume finds its place again."""
    rng = random.Random(f"{seed}:{epoch}")
    lengths = _lengths(rows)
    shuffled = list(range(len(lengths)))
    rng.shuffle(shuffled)
    batches: list[list[int]] = []
    run = batch_size * BUCKET_BATCHES
    for start in range(0, len(shuffled), run):
        chunk = sorted(shuffled[start : start + run], key=lengths.__getitem__)
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    rng.shuffle(batches)
    return batches


def by_length(rows: Rows, batch_size: int) -> list[list[int]]:
    """Batches for a pass without gradients, in order of length: no example is padded much."""
    lengths = _lengths(rows)
    ordered = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]


def _lengths(rows: Rows) -> list[int]:
    return [max((len(rows.tokens[i]) for i in example), default=0) for example in rows.examples]


def collate(rows: Rows, examples: Sequence[int], draw: int = 0) -> Batch:
    """Pad to the longest sequence. `draw` decides which tokens a masked language model has to guess."""
    which = [i for e in examples for i in rows.examples[e]] if rows.sizes is not None else list(examples)
    flat, starts = rows.flat
    counts = starts[np.array(which) + 1] - starts[which]
    ids = np.full((len(which), int(counts.max(initial=1))), rows.pad_id, dtype=np.int64)
    mask = np.arange(ids.shape[1])[None, :] < counts[:, None]
    ids[mask] = np.concatenate([flat[starts[i] : starts[i + 1]] for i in which])
    types = None
    if rows.second is not None:
        second = np.array([rows.second[i] for i in which])
        types = torch.from_numpy(((np.arange(ids.shape[1])[None, :] >= second[:, None]) & mask).astype(np.int64))
    ids_BT, mask_BT = torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))
    sizes = tuple(len(rows.examples[e]) for e in examples)
    positions_BT = None
    if rows.masking is not None:
        ids_BT, positions_BT, labels = _mask_tokens(ids_BT, mask_BT, rows.masking, draw)
    elif rows.positions is not None:
        positions_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
        for b, i in enumerate(which):
            positions_BT[b, rows.positions[i]] = True
        labels = torch.tensor([label for e in examples for label in rows.labels[e]], dtype=torch.long)
    else:
        labels = _labels([rows.labels[e] for e in examples], rows.problem, sizes)
    return Batch(torch.tensor(which), ids_BT, mask_BT, labels, rows.problem, types, positions_BT, sizes, tuple(examples))


def mixed(batch: Batch, share: float, partner_B: Tensor) -> Batch:
    """The same rows blended with their partners; they have no labels of their own, the teacher alone speaks of them."""
    unknown = torch.full_like(batch.labels, float("nan") if batch.labels.is_floating_point() else NO_LABEL)
    mask_BT = batch.attention_mask_BT | batch.attention_mask_BT[partner_B]
    return replace(batch, attention_mask_BT=mask_BT, labels=unknown, mix=Mix(share, partner_B))


def _labels(labels: list[Any], problem: str, sizes: tuple[int, ...]) -> Tensor:
    if problem == "single_label":
        return torch.tensor(labels, dtype=torch.long)
    if problem == "multi_label":
        return torch.tensor(labels, dtype=torch.float32)
    if problem == "ranking":
        wide = max(sizes)
        return torch.tensor([[*row, *[float("nan")] * (wide - len(row))] for row in labels], dtype=torch.float32)
    return torch.tensor([float("nan") if label == NO_LABEL else label for label in labels], dtype=torch.float32)


def _mask_tokens(ids_BT: Tensor, mask_BT: Tensor, masking: Masking, draw: int) -> tuple[Tensor, Tensor, Tensor]:
    """(ids to read, positions to guess, the tokens that were there). At least one position of a batch is to be guessed."""
    generator = torch.Generator().manual_seed(draw)
    free_BT = mask_BT.bool() & ~torch.isin(ids_BT, torch.tensor(sorted(masking.special)))
    chance_BT = torch.rand(ids_BT.shape, generator=generator).masked_fill(~free_BT, 2.0)
    chosen_BT = chance_BT < masking.share
    if not bool(chosen_BT.any()):
        chosen_BT = (chance_BT == chance_BT.min()) & free_BT
    fate_BT = torch.rand(ids_BT.shape, generator=generator)
    other_BT = torch.randint(0, masking.vocabulary, ids_BT.shape, generator=generator)
    read_BT = torch.where(chosen_BT & (fate_BT < 0.8), masking.mask_id, ids_BT)
    read_BT = torch.where(chosen_BT & (fate_BT >= 0.8) & (fate_BT < 0.9), other_BT, read_BT)
    return read_BT, chosen_BT, ids_BT[chosen_BT]
