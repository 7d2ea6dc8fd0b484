"""Documents in the order of their relevance to a query: a cross-encoder reads both at once, a bi-encoder compares vectors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from app.quality import Quality, evaluate
from worker import capture
from worker.heads.base import About, Head, Outputs, outputs_of
from worker.losses.geometry import pooled
from worker.rows import Batch, Rows, has_label, tokenize
from worker.signals import Signals, Wants

SCALE = 20.0  # of a bi-encoder's cosine: what a softmax over documents needs; sentence-transformers' own default


class Ranking(Head):
    """Scores (G, K) for the K documents of G queries.

    cross_encoder: the single logit of the pair (query, document).  bi_encoder: 20 cos(e_query, e_document).
    """

    task = "ranking"
    auto = AutoModelForSequenceClassification
    suffix = "ForSequenceClassification"
    offers = frozenset({"scores", "embedding", "hidden", "qkv", "labels"})
    hard = (("hard_rank", {}),)

    def __init__(self, about: About) -> None:
        super().__init__(about)
        self.cross = about.scorer == "cross_encoder"
        if not self.cross:
            self.auto, self.suffix = AutoModel, ""  # type: ignore[misc,assignment]

    def configured(self, config: Any) -> Any:
        if self.cross:
            config.num_labels, config.problem_type = 1, "regression"
        return config

    def misfit(self, config: dict[str, Any]) -> str | None:
        told = super().misfit(config) if self.cross else None
        if told is None and self.cross and (outputs := outputs_of(config)) != 1:
            return f"has a head of {outputs} outputs; a relevance is one"
        return told

    def encode(self, records: Sequence[dict[str, Any]], tokenizer: Any) -> Rows:
        """Sequences of a query: its (query, document) pairs, or the query itself and then its documents."""
        texts: list[dict[str, Any]] = []
        sizes, labels = [], []
        for record in records:
            number, documents = int(record["id"]) << 16, record["documents"]
            if self.cross:
                texts += [
                    {"id": number + n, "text": record["query"], "text_b": document, "label": None}
                    for n, document in enumerate(documents)
                ]
            else:
                texts += [{"id": number + n, "text": t, "label": None} for n, t in enumerate([record["query"], *documents])]
            sizes.append(len(documents) + (not self.cross))
            labels.append(record["label"] if record["label"] is not None else [float("nan")] * len(documents))
        flat = tokenize(texts, tokenizer, self.about.max_length)
        return Rows(flat.ids, flat.tokens, labels, flat.pad_id, "ranking", flat.second, sizes=sizes)

    def forward(self, model: PreTrainedModel, batch: Batch, wants: Wants, ids_BT: Tensor | None = None) -> Signals:
        out, qkv = capture.run(model, batch, wants, ids_BT, body=not self.cross)
        last = out.last_hidden_state if not self.cross else out.hidden_states[-1] if wants.embedding else None
        vectors = None if last is None else pooled(last, batch.attention_mask_BT)
        flat_B = out.logits[:, 0] if self.cross else None
        return Signals(
            logits_NC=out.logits if self.cross else None,
            embedding_BE=vectors,
            scores_GK=self.scores(flat_B, vectors, batch.sizes) if wants.scores else None,
            hidden={i: out.hidden_states[i] for i in wants.hidden},
            qkv=qkv,
        )

    def scores(self, flat_B: Tensor | None, vectors_BE: Tensor | None, sizes: tuple[int, ...]) -> Tensor:
        """(G, K), 0 beyond a group's size."""
        if self.cross:
            assert flat_B is not None
            return torch.nn.utils.rnn.pad_sequence(list(torch.split(flat_B, list(sizes))), batch_first=True)
        assert vectors_BE is not None
        unit = torch.nn.functional.normalize(vectors_BE.float(), dim=-1)
        groups = [SCALE * (part[1:] @ part[0]) for part in torch.split(unit, list(sizes))]
        return torch.nn.utils.rnn.pad_sequence(groups, batch_first=True)

    def answers(self) -> Wants:
        return Wants(logits=self.cross, embedding=not self.cross)

    def ranked(self, outputs: Outputs, rows: Rows) -> list[NDArray[np.float32]]:
        """Scores of every query's documents."""
        sizes = tuple(len(e) for e in rows.examples)
        flat_B = torch.from_numpy(outputs.logits[:, 0]) if self.cross else None
        vectors_BE = torch.from_numpy(outputs.embedding_BE) if outputs.embedding_BE is not None else None
        padded = self.scores(flat_B, vectors_BE, sizes).numpy()
        return [row[: size - (not self.cross)] for row, size in zip(padded, sizes, strict=True)]

    def judge(self, outputs: Outputs, rows: Rows, teacher: Outputs | None, resamples: int = 0, seed: int = 0) -> Quality:
        """`teacher` holds scores per query in `logits`: its own scorer's `comparable`."""
        labelled = [e for e, label in enumerate(rows.labels) if has_label(label)]
        found = self.ranked(outputs, rows)
        theirs = None if teacher is None else teacher.logits
        if not labelled:
            return evaluate("ranking", found, None, theirs, resamples=resamples, seed=seed)
        targets = [np.nan_to_num(np.array(rows.labels[e], dtype=np.float64)) for e in labelled]
        own = [found[e] for e in labelled]
        return evaluate(
            "ranking", own, targets, None if theirs is None else [theirs[e] for e in labelled], resamples=resamples, seed=seed
        )

    def comparable(self, outputs: Outputs, rows: Rows) -> Outputs:
        return Outputs(logits=self.ranked(outputs, rows))
