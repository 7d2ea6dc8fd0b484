"""Divergences between a teacher's distribution p and a student's q: plain functions, exact, in nats, no temperature.

Each takes log-probabilities in float32 or wider, finite (`log_softmax` of `worker/objectives/base.py` makes them), and
returns one number per row. `tau²`, weights and sums are the business of whoever calls.
Shapes: N rows, C classes.
"""

import math

import torch
from torch import Tensor

_NEVER = -3e38  # the logarithm of no probability at all: less than that of any class


def kl(log_p_NC: Tensor, log_q_NC: Tensor) -> Tensor:
    """KL(p ‖ q) = Σ_C p (log p − log q). A class without probability under p adds nothing, however small q is.

    Summed as Σ_C p (log p − log q) + q − p, the same since both sum to 1: no term is negative and the rounding of the
    normalisers cancels, so that the value is right where p and q are close, too.
    """
    p_NC, q_NC, gap_NC = log_p_NC.exp(), log_q_NC.exp(), log_p_NC - log_q_NC
    near_NC = gap_NC.clamp_min(-1.0)
    close_NC = p_NC * (near_NC + torch.expm1(-near_NC))
    return torch.where(gap_NC > -1.0, close_NC, p_NC * gap_NC + q_NC - p_NC).sum(-1)


def jensen_shannon(log_p_NC: Tensor, log_q_NC: Tensor, beta: float) -> Tensor:
    """beta KL(p ‖ m) + (1 − beta) KL(q ‖ m) with m = beta p + (1 − beta) q, 0 < beta < 1.

    For beta → 0 it behaves like beta KL(p ‖ q), for beta → 1 like (1 − beta) KL(q ‖ p): the scale shrinks at both ends.
    Source: GKD, Agarwal et al. 2023, arXiv 2306.13649.
    """
    log_m_NC = _mixed(log_p_NC, log_q_NC, beta)
    return beta * kl(log_p_NC, log_m_NC) + (1 - beta) * kl(log_q_NC, log_m_NC)


def skew_kl(log_p_NC: Tensor, log_q_NC: Tensor, skew: float) -> Tensor:
    """KL(p ‖ skew p + (1 − skew) q): never above −log skew. Source: DistiLLM, Ko et al. 2024, arXiv 2402.03898."""
    return kl(log_p_NC, _mixed(log_p_NC, log_q_NC, skew))


def total_variation(log_p_NC: Tensor, log_q_NC: Tensor) -> Tensor:
    """1/2 Σ_C |p − q|, in [0, 1]. Source: f-distill, Wen et al. 2023, arXiv 2307.15190."""
    return 0.5 * (log_p_NC.exp() - log_q_NC.exp()).abs().sum(-1)


def logit_mse(teacher_NC: Tensor, student_NC: Tensor) -> Tensor:
    """‖z_S − z_T‖² / C, of logits; infinite ones count as ± 1e15."""
    limit = 1e15
    return (student_NC.clamp(-limit, limit) - teacher_NC.clamp(-limit, limit)).square().mean(-1)


def adaptive_kl(log_p_NC: Tensor, log_q_NC: Tensor, head: float = 0.5) -> Tensor:
    """w_h KL(p ‖ q) + w_t KL(q ‖ p), w the shares of Σ |p − q| in the teacher's head and in its tail; no gradient through w.

    The head is the teacher's first class and those whose cumulative probability stays within `head`.
    Source: Wu et al. 2024, arXiv 2404.02657, section 4.
    """
    with torch.no_grad():
        p_NC, order_NC = log_p_NC.exp().sort(dim=-1, descending=True, stable=True)
        gap_NC = (p_NC - log_q_NC.exp().gather(-1, order_NC)).abs()
        inside_NC = p_NC.cumsum(-1) <= head
        inside_NC[..., 0] = True
        all_N = gap_NC.sum(-1)
        head_N = torch.where(all_N > 0, (gap_NC * inside_NC).sum(-1) / all_N.clamp_min(1e-30), 0.5)
    return head_N * kl(log_p_NC, log_q_NC) + (1 - head_N) * kl(log_q_NC, log_p_NC)


def decoupled_kl(log_p_NC: Tensor, log_q_NC: Tensor, target_N: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha KL(b_T ‖ b_S) + beta KL(r_T ‖ r_S): b the two-way target-or-not, r the other classes among themselves.

    With alpha = 1 and beta = 1 − p(target) it is KL(p ‖ q). C ≥ 2. Source: DKD, Zhao et al. 2022, arXiv 2203.08679.
    """
    is_target_NC = torch.zeros_like(log_p_NC, dtype=torch.bool).scatter_(-1, target_N[:, None], True)

    def parts(log_NC: Tensor) -> tuple[Tensor, Tensor]:
        others_NC = log_NC.masked_fill(is_target_NC, _NEVER)
        both_N2 = torch.stack([log_NC.gather(-1, target_N[:, None])[:, 0], others_NC.logsumexp(-1)], dim=-1)
        return both_N2, others_NC.log_softmax(-1).masked_fill(is_target_NC, _NEVER)

    (b_T, r_T), (b_S, r_S) = parts(log_p_NC), parts(log_q_NC)
    return alpha * kl(b_T, b_S) + beta * kl(r_T, r_S)


def _mixed(log_a_NC: Tensor, log_b_NC: Tensor, share: float) -> Tensor:
    """log(share a + (1 − share) b)."""
    return torch.logaddexp(log_a_NC + math.log(share), log_b_NC + math.log1p(-share))
