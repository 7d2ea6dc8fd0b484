"""A student without layers: a vector for every token, made by asking the teacher about each alone, then averaged over a text."""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from app.domain.errors import InvalidRequest, UnsupportedMethod
from app.domain.student_checks import static_width
from worker import capture
from worker.heads.base import Head
from worker.losses.geometry import pooled
from worker.rows import Batch
from worker.signals import Wants
from worker.students.base import Origin, StudentInit, StudentParams
from worker.surgery.least_squares import ridge
from worker.surgery.observation import leaving, sample
from worker.surgery.static_model import StaticConfig

_CHUNK = 1024
_PRIOR = 1e-3  # of a mean count, given to tokens that the rows do not use


class Static(StudentInit):
    """One vector per token, a weighted mean over the text, a small residual layer: see `worker/surgery/static_model.py`.

    e_t = Pᵀ (v_t − μ), v_t the mean of the teacher's last states over [CLS] t [SEP]; P (E, D) the directions of most variance
    and μ the mean, both over tokens as often as the job's rows use them. Weights exp(a · e_t): with `weighting` frequency, a
    is the regression of log w_t, w_t = s / (s + p_t), p_t the token's share of the rows; with uniform a = 0 and it is learned.
    A classifier's head is the ridge regression from the averages to the teacher's logits on a sample of rows.
    All of it trains; it wants learning rates of ten times a transformer's, about 3e-3.
    Sources: token vectors of a teacher, model2vec (2024); weights, SIF (Arora et al. 2017, ICLR).
    Raises UnsupportedMethod for tasks that need a word's place or its neighbours: tokens, pairs, cross-encoders, masked words.
    """

    name = "static"

    class Params(StudentParams):
        hidden_size: int | None = Field(
            default=None, ge=8, le=4096, description="Width of the vectors, at most the teacher's; default: 256, or the teacher's."
        )
        residual_size: int | None = Field(
            default=None,
            ge=0,
            le=16384,
            description="Width of the residual layer behind the average; 0: none; default: hidden_size.",
        )
        weighting: Literal["auto", "uniform", "frequency"] = Field(
            default="auto",
            description="What tokens count at first. frequency: rare ones more. auto: frequency where vectors are compared, "
            "uniform for classes, whose training finds better weights by itself.",
        )
        smoothing: float = Field(
            default=1e-3, gt=0, le=1, description="s in s / (s + p): the share of the rows at which a token counts half."
        )
        dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout before the classifier while training.")

    params: Params

    def make(self, origin: Origin) -> PreTrainedModel:
        _refuse(origin.head)
        teacher = origin.teacher_head.load(origin.teacher_dir)
        teacher.train(False)
        tokenizer = AutoTokenizer.from_pretrained(origin.teacher_dir, local_files_only=True)
        width = self._width(teacher.config.hidden_size)
        inner = self.params.residual_size
        config = StaticConfig(
            vocab_size=teacher.config.vocab_size,
            hidden_size=width,
            residual_size=width if inner is None else inner,
            dropout=self.params.dropout,
            pad_token_id=teacher.config.pad_token_id,
        )
        student = origin.head.make(config)
        student.train(False)
        counts_V = _counts(origin, tokenizer, teacher.config.vocab_size)
        kept = _fill_table(student, _alone(teacher, tokenizer), counts_V, tokenizer.all_special_ids)
        classes = hasattr(student, "classifier")
        weighting = self.params.weighting if self.params.weighting != "auto" else "uniform" if classes else "frequency"
        if weighting == "frequency":
            _fill_weights(student, counts_V, self.params.smoothing)
        self.plan |= {"variance_kept": round(kept, 4), "weighting": weighting, "hidden_size": [teacher.config.hidden_size, width]}
        same = classes and type(teacher).__name__.endswith("ForSequenceClassification")
        if same:
            rows = origin.head.encode(origin.sample, tokenizer)
            _fill_head(teacher, student, sample(rows, teacher.config.hidden_size, 1))
        self.plan["inherited"] = ["embeddings", "head"] if same else ["embeddings"]
        return student

    def _width(self, most: int) -> int:
        wanted = static_width(self.params.hidden_size, most)
        if wanted > most:
            raise InvalidRequest(
                f"student.hidden_size is {wanted}, the teacher's vectors have {most} numbers.",
                param="student.hidden_size",
                hint=f"Choose at most {most}.",
            )
        return wanted


def _refuse(head: Head) -> None:
    about = head.about
    two = about.pairs if about.task == "text-classification" else about.scorer == "cross_encoder"
    if about.task in ("text-classification", "ranking") and two:
        reason = "two texts in one sequence are one bag of words to it"
    elif about.task not in ("text-classification", "embedding", "ranking"):
        reason = f"it knows no neighbours of a word, and {about.task} needs them"
    else:
        return
    raise UnsupportedMethod(
        f"student.init = static averages token vectors: {reason}.",
        param="student.init",
        hint="Use teacher_layers, pretrained or config. A ranker's student may be static as a bi_encoder.",
    )


def _counts(origin: Origin, tokenizer: Any, size: int) -> Tensor:
    """(V,) how often the job's rows use each token; special tokens never."""
    rows = origin.head.encode(origin.corpus or origin.sample, tokenizer)
    counts_V = torch.from_numpy(rows.flat[0]).bincount(minlength=size).double()
    counts_V[tokenizer.all_special_ids] = 0
    return counts_V


@torch.no_grad()
def _alone(teacher: PreTrainedModel, tokenizer: Any) -> Tensor:
    """(V, E): the teacher's vector of every token by itself, between the special tokens of a text."""
    around = list(tokenizer("")["input_ids"])
    before, after = torch.tensor(around[:1], dtype=torch.long), torch.tensor(around[1:], dtype=torch.long)
    found = []
    for ids in torch.split(torch.arange(teacher.config.vocab_size), _CHUNK):
        many = len(ids)
        ids_BT = torch.cat([before.expand(many, -1), ids[:, None], after.expand(many, -1)], dim=1)
        batch = Batch(ids, ids_BT, torch.ones_like(ids_BT), torch.zeros(many))
        out, _ = capture.run(teacher, batch, Wants(), body=True)
        found.append(pooled(out.last_hidden_state, batch.attention_mask_BT))
    return torch.cat(found)


@torch.no_grad()
def _fill_table(student: PreTrainedModel, vectors_VE: Tensor, counts_V: Tensor, special: list[int]) -> float:
    """Special tokens get zeros. Returns the share of variance kept."""
    table: Any = student.get_input_embeddings()
    share_V = counts_V + _PRIOR * counts_V.mean().clamp_min(1e-12)
    share_V[special] = 0
    share_V1 = (share_V / share_V.sum()).unsqueeze(1)
    centred_VE = vectors_VE.double() - (share_V1 * vectors_VE).sum(0)
    values_E, vectors_EE = torch.linalg.eigh(centred_VE.T @ (share_V1 * centred_VE))
    table.weight.copy_(centred_VE @ vectors_EE.flip(-1)[:, : table.embedding_dim])
    table.weight[special] = 0
    return float(values_E[-table.embedding_dim :].sum() / values_E.sum().clamp_min(1e-300))


@torch.no_grad()
def _fill_weights(student: PreTrainedModel, counts_V: Tensor, smoothing: float) -> None:
    """a = ridge of log s / (s + p_t) on e_t, tokens weighed by log(1 + count): the regression is fair to words that occur."""
    body: Any = student.base_model
    used = counts_V > 0
    share = counts_V[used] / counts_V.sum()
    wanted = (smoothing / (smoothing + share)).log().unsqueeze(1)
    weight, _ = ridge(body.embeddings.weight[used], wanted, counts_N=torch.log1p(counts_V[used]))
    body.weigh.weight.copy_(weight)


@torch.no_grad()
def _fill_head(teacher: PreTrainedModel, student: Any, batches: list[Batch]) -> None:
    wanted_RC = torch.cat([capture.run(teacher, batch, Wants())[0].logits for batch in batches])
    weight, bias = ridge(leaving(student, student.dropout, batches), wanted_RC, relative=1e-2)
    student.classifier.weight.copy_(weight)
    student.classifier.bias.copy_(bias)
