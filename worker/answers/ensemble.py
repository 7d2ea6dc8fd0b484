"""What the job's teacher says of a micro-batch: from the cache or asked on the spot; one model, or several averaged or routed.

Shapes: see `worker/signals.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from app.domain.errors import IncompatibleModels
from worker import capture
from worker.answers.cache import Kept
from worker.heads.base import Head
from worker.rows import Batch, Rows, by_length, collate
from worker.signals import Signals, Wants

HALF_LIMIT = 3e4  # hidden states beyond this are kept in float32: float16 ends at 65,504


@dataclass
class Member:
    """One teacher: its folder, its own view of the rows, what of it is cached, and its part in the ensemble."""

    folder: Path
    head: Head
    rows: Rows
    device: torch.device
    dtype: torch.dtype
    batch_size: int = 64
    autocast: bool = False  # bf16 products over weights of `dtype`
    weight: float = 1.0
    routed: Tensor | None = None  # (examples,) bool: those that it answers; None: all
    kept: Kept | None = None
    kinds: frozenset[str] = frozenset()
    _model: list[PreTrainedModel] = field(default_factory=list)

    @property
    def format(self) -> str:
        """What of the arithmetic decides the answers."""
        return f"{self.dtype}{'+bf16' if self.autocast else ''}"

    @property
    def model(self) -> PreTrainedModel:
        if not self._model:
            plain = "eager" if self.autocast else None  # on a CPU, in bf16, torch's own kernel is the slower one
            loaded = self.head.load(self.folder, self.dtype, plain).requires_grad_(False)
            torch.nn.Module.to(loaded, self.device)
            loaded.train(False)
            self._model.append(loaded)
        return self._model[0]

    @torch.no_grad()
    def ask(self, rows: Rows, kinds: Sequence[str]) -> dict[str, tuple[Tensor, list[int]]]:
        """The kinds for plain sequences; see `cached.Ask`."""
        layers = frozenset(int(kind[1:]) for kind in kinds if kind[0] == "h")
        wants = Wants(logits="logits" in kinds, embedding="embedding" in kinds, hidden=layers)
        parts: dict[str, list[Tensor]] = {kind: [torch.empty(0)] * len(rows) for kind in kinds}
        for which in by_length(rows, self.batch_size):
            batch = collate(rows, which).to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                signals = self.head.forward(self.model, batch, wants)
            for kind in kinds:
                for i, part in zip(which, _parts(kind, signals, batch), strict=True):
                    parts[kind][i] = part.cpu()
        return {kind: (torch.cat(values), [len(v) for v in values]) for kind, values in parts.items()}

    def kinds_for(self, wants: Wants) -> set[str]:
        """What has to be cached so that `signals` can answer without a pass of the model."""
        kinds = {f"h{i}" for i in wants.hidden} | {f"h{i - 1}" for i in wants.qkv}
        if wants.logits or (wants.scores and self.head.cross):  # type: ignore[attr-defined]
            kinds.add("logits")
        if wants.embedding or (wants.scores and not self.head.cross):  # type: ignore[attr-defined]
            kinds.add("embedding")
        return kinds

    @torch.no_grad()
    def signals(self, batch: Batch, wants: Wants) -> Signals:
        kinds = self.kinds_for(wants)
        if self.kept is None or not kinds <= self.kinds:
            own = batch if self.rows.masking is not None else collate(self.rows, batch.examples).to(self.device)
            return self.head.forward(self.model, own, wants)
        which = [i for e in batch.examples for i in self.rows.examples[e]]
        sizes = tuple(len(self.rows.examples[e]) for e in batch.examples)
        logits_NC = self.kept.rows("logits", which).to(self.device) if "logits" in kinds else None
        vectors_BE = self.kept.rows("embedding", which).to(self.device) if "embedding" in kinds else None
        states = {
            int(kind[1:]): pad_sequence(self.kept.take(kind, which), batch_first=True).float().to(self.device)
            for kind in kinds
            if kind[0] == "h"
        }
        return Signals(
            logits_NC=logits_NC,
            embedding_BE=vectors_BE if wants.embedding else None,
            scores_GK=self.head.scores(logits_NC[:, 0] if logits_NC is not None else None, vectors_BE, sizes)  # type: ignore[attr-defined]
            if wants.scores
            else None,
            hidden={i: states[i] for i in wants.hidden},
            qkv={i: capture.qkv_of(self.model, i, states[i - 1].to(self.dtype)) for i in wants.qkv},
        )


def _parts(kind: str, signals: Signals, batch: Batch) -> list[Tensor]:
    """One tensor per sequence of the batch."""
    if kind == "logits":
        assert signals.logits_NC is not None
        counts = [1] * len(batch.index_B) if batch.positions_BT is None else batch.positions_BT.sum(1).tolist()
        return list(torch.split(signals.logits_NC.float(), counts))
    if kind == "embedding":
        assert signals.embedding_BE is not None
        return list(torch.split(signals.embedding_BE.float(), 1))
    states_BTD = signals.hidden[int(kind[1:])].float()
    lengths = batch.attention_mask_BT.sum(1).tolist()
    kept = states_BTD if float(states_BTD.abs().max()) > HALF_LIMIT else states_BTD.half()
    return [row[:length] for row, length in zip(kept, lengths, strict=True)]


class Answers:
    """All members as one teacher. Hidden states, queries, keys and values are the first member's alone."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = list(members)

    @property
    def first(self) -> Member:
        return self.members[0]

    def __call__(self, batch: Batch, wants: Wants) -> Signals:
        if batch.mix is not None:
            return blended(self._plain(batch, Wants(wants.logits, wants.embedding)), batch)
        return self._plain(batch, wants)

    def _plain(self, batch: Batch, wants: Wants) -> Signals:
        said = self.first.signals(batch, wants)
        if len(self.members) == 1:
            return said
        shared = Wants(logits=wants.logits, embedding=wants.embedding, scores=wants.scores)
        everything = [said, *(member.signals(batch, shared) for member in self.members[1:])]
        return Signals(
            logits_NC=self._average("logits_NC", everything, batch) if wants.logits else None,
            embedding_BE=self._average("embedding_BE", everything, batch) if wants.embedding else None,
            scores_GK=self._average("scores_GK", everything, batch) if wants.scores else None,
            hidden=said.hidden,
            qkv=said.qkv,
        )

    def _average(self, name: str, everything: list[Signals], batch: Batch) -> Tensor:
        """log of the mean probability for classes, mean unit vector, mean score; each row over the members that answer it."""
        values = [getattr(signals, name) for signals in everything]
        if len({value.shape for value in values}) > 1:
            raise IncompatibleModels(
                f"The teachers of the ensemble answer in different shapes: {[tuple(v.shape) for v in values]}.",
                param="teacher.ensemble",
                hint="Average teachers of one width, or let each answer its own rows with 'route'.",
            )
        weights_MN = torch.stack([self._weights(member, batch, len(values[0])) for member in self.members])
        weights_MN = weights_MN / weights_MN.sum(0).clamp_min(1e-12)
        if name == "logits_NC" and batch.problem in ("single_label", "tokens", "masked_lm"):
            log_p_MNC = torch.stack([value.float().log_softmax(-1) for value in values])
            return torch.logsumexp(log_p_MNC + weights_MN.clamp_min(1e-30).log()[..., None], 0)
        if name == "embedding_BE":
            values = [torch.nn.functional.normalize(value.float(), dim=-1) for value in values]
        return (torch.stack([value.float() for value in values]) * weights_MN[..., None]).sum(0)

    def _weights(self, member: Member, batch: Batch, rows: int) -> Tensor:
        """(rows,) of the answer: examples repeated as often as they have rows in it."""
        examples_G = torch.tensor(batch.examples)
        answered_G = torch.ones(len(examples_G)) if member.routed is None else member.routed[examples_G].float()
        per_G = batch.positions_BT.sum(1).cpu() if batch.positions_BT is not None else torch.tensor(batch.sizes)
        repeated = answered_G if rows == len(answered_G) else answered_G.repeat_interleave(per_G)
        return (repeated * member.weight).to(self.first.device)


def blended(said: Signals, batch: Batch) -> Signals:
    """Of rows mixed at the embeddings: the same mixture of what the teacher says of both (probabilities; unit vectors)."""
    assert batch.mix is not None
    share, partner_B = batch.mix.share, batch.mix.partner_B.to(batch.labels.device)
    logits_NC, vectors_BE = said.logits_NC, said.embedding_BE
    if logits_NC is not None and batch.problem == "single_label":
        p_NC = logits_NC.float().softmax(-1)
        logits_NC = (share * p_NC + (1 - share) * p_NC[partner_B]).clamp_min(1e-30).log()
    elif logits_NC is not None:
        logits_NC = share * logits_NC + (1 - share) * logits_NC[partner_B]
    if vectors_BE is not None:
        unit_BE = torch.nn.functional.normalize(vectors_BE.float(), dim=-1)
        vectors_BE = share * unit_BE + (1 - share) * unit_BE[partner_B]
    return Signals(logits_NC=logits_NC, embedding_BE=vectors_BE)
