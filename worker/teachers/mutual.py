"""Peers that learn in step with the student and from it: nobody is the teacher, everybody teaches."""

import copy

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from worker.plugins import PluginParams
from worker.rows import NO_LABEL, Batch
from worker.signals import Signals, Wants
from worker.teachers.base import Scene, Source


class Mutual(Source):
    """The student hears the mean prediction of K peers; peer k takes its own step on CE(y, q_k) + KL(q_student || q_k).

    A peer starts as the student with every weight matrix moved by `perturbation` of its own spread, so that they differ.
    Peers are trained with the student's batches and learning rate, checkpointed with it, and dropped at the end.
    Speaks in logits only. Source: deep mutual learning, arXiv 1706.00384.
    """

    name = "mutual"
    offers = frozenset({"logits"})
    problems = frozenset({"single_label", "tokens"})

    class Params(PluginParams):
        peers: int = Field(default=1, ge=1, le=4, description="How many learn beside the student; each costs as much as it.")
        perturbation: float = Field(default=0.1, ge=0, le=1, description="Relative noise on a peer's first weights.")

    params: Params

    def begin(self, scene: Scene) -> None:
        super().begin(scene)
        self.peers = nn.ModuleList(self._peer(scene.student) for _ in range(self.params.peers))
        self.learns = self.peers
        self.optimizer = scene.optimizer(self.peers)
        self.said: list[Tensor] = []

    @torch.no_grad()
    def _peer(self, student: PreTrainedModel) -> PreTrainedModel:
        peer = copy.deepcopy(student)
        for value in peer.parameters():
            if value.ndim == 2 and value.requires_grad:
                value.add_(self.params.perturbation * value.std() * torch.randn_like(value))
        peer.train()
        return peer

    def signals(self, batch: Batch, wants: Wants) -> Signals:
        ids_BT = self.scene.remap(batch.input_ids_BT)
        self.said = []
        for peer in self.peers:
            logits_NC = self.scene.head.forward(peer, batch, Wants(logits=True), ids_BT).logits_NC  # type: ignore[arg-type]
            assert logits_NC is not None
            self.said.append(logits_NC.float())
        with torch.no_grad():
            mean_NC = torch.stack([logits.log_softmax(-1) for logits in self.said]).logsumexp(0)
        return Signals(logits_NC=mean_NC if len(self.said) > 1 else self.said[0].detach())

    def learn(self, student: Signals, batch: Batch, share: float) -> None:
        assert student.logits_NC is not None
        log_p_NC = student.logits_NC.float().log_softmax(-1)
        known_N = batch.labels != NO_LABEL
        for logits_NC in self.said:
            log_q_NC = logits_NC.log_softmax(-1)
            loss = (log_p_NC.exp() * (log_p_NC - log_q_NC)).sum()
            loss = loss - log_q_NC.gather(1, batch.labels.clamp_min(0)[:, None])[:, 0][known_N].sum()
            (share * loss / max(1, batch.count)).backward()  # type: ignore[no-untyped-call]
        self.said = []

    def after_step(self, learning_rate: float) -> None:
        assert self.optimizer is not None
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        nn.utils.clip_grad_norm_(self.peers.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
