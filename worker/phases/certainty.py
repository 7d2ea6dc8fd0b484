"""How certain the job's teacher is of rows that nobody has labelled, and which label it gives them.

Shapes: N rows, C classes, P words of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from worker.answers.ensemble import Answers, Member
from worker.rows import by_length, collate
from worker.signals import Wants


@dataclass(frozen=True)
class Said:
    """`label` as in a prepared record, but of tags only for the words within max_length."""

    confidence: float
    label: Any


class Certainty:
    """Of the teacher as the student will hear it: several are averaged, or the one that the parent is routed to answers."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = list(members)
        self._tokenizers = [AutoTokenizer.from_pretrained(m.folder, local_files_only=True) for m in members]
        self._problem = members[0].head.about.problem

    @torch.no_grad()
    def of(self, records: Sequence[dict[str, Any]], parents: Sequence[int]) -> list[Said]:
        """`parents`: each record's parent, as a number of the members' rows."""
        numbered, asked = [{**record, "id": n} for n, record in enumerate(records)], []
        for member, tokenizer in zip(self._members, self._tokenizers, strict=True):
            routed = None if member.routed is None else member.routed[torch.tensor(parents)]
            rows = member.head.encode(numbered, tokenizer)
            asked.append(replace(member, rows=rows, routed=routed, kept=None, kinds=frozenset()))
        teacher, rows = Answers(asked), asked[0].rows
        found: list[Said | None] = [None] * len(records)
        for which in by_length(rows, self._members[0].batch_size):
            batch = collate(rows, which)
            said = teacher(batch, Wants(logits=True)).logits_NC
            assert said is not None
            counts = [1] * len(which) if batch.positions_BT is None else batch.positions_BT.sum(1).tolist()
            for n, logits in zip(which, torch.split(said.float().cpu(), counts), strict=True):
                found[n] = _judged(logits, self._problem)
        return [said for said in found if said is not None]


def _judged(logits_PC: Tensor, problem: str) -> Said:
    """One row of logits, or one per word.

    single_label: max_c p_c.   multi_label: min_c max(p_c, 1 − p_c).   tokens: the mean over words of max_c p_c.
    """
    if problem == "multi_label":
        p_C = logits_PC[0].sigmoid()
        return Said(float(torch.maximum(p_C, 1 - p_C).min()), [float(p > 0.5) for p in p_C])
    top_P, label_P = logits_PC.softmax(-1).max(-1)
    if problem == "tokens":
        return Said(float(top_P.mean()), label_P.tolist())
    return Said(float(top_P[0]), int(label_P[0]))
