"""Soft labels: the student matches the teacher's softened distribution."""

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from app.domain.errors import InvalidRequest
from worker.losses import divergences, temperatures
from worker.objectives.base import Objective, Temperature, both, distributions, log_softmax
from worker.plugins import PluginParams
from worker.rows import NO_LABEL, Batch
from worker.signals import Need, Signals

CLASSES = ["single_label", "tokens", "masked_lm"]
LABELS = [*CLASSES, "multi_label"]
LEAST_CLASSES = 3  # whose standardised logits say anything
SPEAKS_OF = {  # divergence → problems
    **dict.fromkeys(("forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "total_variation", "adaptive_kl"), LABELS),
    "decoupled_kl": CLASSES,
    "logit_mse": [*LABELS, "regression"],
}


class Response(Objective):
    """tau² Σ_N D(p_tau, q_tau), in nats; p teacher, q student, both softmax(z / tau) over C classes in float32.

    forward_kl: Σ_C p (log p − log q), Hinton's.  reverse_kl: Σ_C q (log q − log p).
    jsd: beta KL(p ‖ m) + (1 − beta) KL(q ‖ m), m = beta p + (1 − beta) q.
    skew_kl: KL(p ‖ skew p + (1 − skew) q).  skew_reverse_kl: KL(q ‖ skew q + (1 − skew) p).
    total_variation: 1/2 Σ_C |p − q|.  logit_mse: ‖z_S − z_T‖² / C, whatever tau.
    adaptive_kl: forward KL weighted by the gap in the teacher's head, reverse KL by that in its tail.
    decoupled_kl: dkd_alpha KL(target or not) + dkd_beta KL(other classes among themselves); the target is the row's label,
    or the teacher's first class where there is none.

    tau² keeps the size of the gradient, for forward_kl tau (q − p), independent of tau. Its `weight` is alpha.
    Several labels per row: each is a distribution of two, σ(z / tau) against its rest, and each counts. A number per row:
    logit_mse alone. Every row counts, labelled or not. `per_sample` gives each row its own temperature around tau;
    `standardize` first brings every row's logits to mean 0 and deviation 1, so that only their shape is learned.
    Raises IncompatibleModels when student and teacher differ in classes, InvalidRequest when the divergence cannot speak of
    the rows' kind of target.
    Sources: Hinton et al. 2015, arXiv 1503.02531; MiniLLM, arXiv 2306.08543; GKD, arXiv 2306.13649; DistiLLM, arXiv 2402.03898;
    adaptive KL, arXiv 2404.02657; DKD, arXiv 2203.08679; per-sample temperatures, arXiv 1911.07471; standardisation,
    arXiv 2403.01427.
    """

    name = "response"
    needs: ClassVar[frozenset[Need]] = frozenset({"logits", "teacher"})
    problems: ClassVar[frozenset[str]] = frozenset({*LABELS, "regression"})

    class Params(PluginParams):
        divergence: Literal[
            "forward_kl",
            "reverse_kl",
            "jsd",
            "skew_kl",
            "skew_reverse_kl",
            "total_variation",
            "logit_mse",
            "adaptive_kl",
            "decoupled_kl",
        ] = Field(
            default="forward_kl",
            description="How far the student is from its teacher; logit_mse is the one for numbers.",
            json_schema_extra={"x-problems": {name: list(problems) for name, problems in SPEAKS_OF.items()}},
        )
        temperature: Temperature = Field(
            default=2.0,
            validate_default=True,
            description="Softmax temperature of both sides, 0.01 to 100; a number or a schedule.",
        )
        beta: float = Field(default=0.5, gt=0, lt=1, description="jsd: weight of KL(p ‖ m); near 0 or 1 the whole shrinks.")
        skew: float = Field(default=0.1, gt=0, lt=1, description="skew_kl, skew_reverse_kl: share of the first in the mixture.")
        dkd_alpha: float = Field(default=1.0, ge=0, description="decoupled_kl: weight of target against the rest.")
        dkd_beta: float = Field(default=8.0, ge=0, description="decoupled_kl: weight of the other classes among themselves.")
        per_sample: Literal["none", "flsw", "cwsm"] = Field(
            default="none",
            description="Row i's: tau + b (mean w − w_i), 0.05 to 100. flsw: w = (1 − cos(z_S, z_T))^gamma. cwsm: w = 1 / max q.",
        )
        sample_b: float = Field(default=1.0, ge=0, le=100, description="per_sample: b, how far rows differ in temperature.")
        sample_gamma: float = Field(default=1.0, gt=0, le=10, description="flsw: gamma, how much far rows stand out.")
        standardize: bool = Field(
            default=False,
            description="Standardise every row's logits first; for three classes and more.",
            json_schema_extra={"x-problems": {"true": list(CLASSES)}, "x-least-classes": {"true": LEAST_CLASSES}},
        )

    params: Params

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.batchwise = self.params.per_sample != "none"
        self.detaches = self.batchwise or self.params.divergence == "adaptive_kl"

    def __call__(self, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> Tensor:
        ours_NC, theirs_NC = both(student, teacher, "logits_NC")
        self._check(batch.problem, ours_NC.shape[-1])
        tau = self._temperature(ours_NC, theirs_NC, batch.problem, x)
        if self.params.standardize:
            ours_NC, theirs_NC = temperatures.standardized(ours_NC), temperatures.standardized(theirs_NC)
        if self.params.divergence == "logit_mse":
            shape = (-1, 1) if batch.problem == "multi_label" else ours_NC.shape
            return divergences.logit_mse(theirs_NC.reshape(shape), ours_NC.reshape(shape)).sum()
        log_q_NC = log_softmax(distributions(ours_NC, batch.problem), tau)
        log_p_NC = log_softmax(distributions(theirs_NC, batch.problem), tau)
        each_N = self._divergence(log_p_NC, log_q_NC, batch)
        return (each_N * (tau**2 if isinstance(tau, float) else tau[:, 0] ** 2)).sum()

    def _divergence(self, log_p_NC: Tensor, log_q_NC: Tensor, batch: Batch) -> Tensor:
        match self.params.divergence:
            case "forward_kl":
                return divergences.kl(log_p_NC, log_q_NC)
            case "reverse_kl":
                return divergences.kl(log_q_NC, log_p_NC)
            case "jsd":
                return divergences.jensen_shannon(log_p_NC, log_q_NC, self.params.beta)
            case "skew_kl":
                return divergences.skew_kl(log_p_NC, log_q_NC, self.params.skew)
            case "skew_reverse_kl":
                return divergences.skew_kl(log_q_NC, log_p_NC, self.params.skew)
            case "total_variation":
                return divergences.total_variation(log_p_NC, log_q_NC)
            case "adaptive_kl":
                return divergences.adaptive_kl(log_p_NC, log_q_NC)
            case _:
                target_N = batch.labels.where(batch.labels != NO_LABEL, log_p_NC.argmax(-1))
                return divergences.decoupled_kl(log_p_NC, log_q_NC, target_N, self.params.dkd_alpha, self.params.dkd_beta)

    def _temperature(self, ours_NC: Tensor, theirs_NC: Tensor, problem: str, x: float) -> float | Tensor:
        tau, b = self.params.temperature(x), self.params.sample_b
        if self.params.per_sample == "none":
            return tau
        if self.params.per_sample == "cwsm":
            return temperatures.confident(distributions(ours_NC, problem), tau, b).to(ours_NC.dtype)
        found_N1 = temperatures.focal(ours_NC, theirs_NC, tau, b, self.params.sample_gamma).to(ours_NC.dtype)
        return found_N1.repeat_interleave(ours_NC.shape[-1], dim=0) if problem == "multi_label" else found_N1

    def _check(self, problem: str, classes: int) -> None:
        possible = SPEAKS_OF[self.params.divergence]
        if problem not in possible:
            fit = "logit_mse" if problem == "regression" else "forward_kl"
            raise InvalidRequest(
                f"The divergence '{self.params.divergence}' cannot compare targets of the kind '{problem}'.",
                param="divergence",
                hint=f'It knows {", ".join(possible)}; here use "divergence": "{fit}".',
            )
        if self.params.standardize and (problem not in CLASSES or classes < LEAST_CLASSES):
            raise InvalidRequest(
                "Standardised logits of one or two classes are ± 1 whatever the model says.",
                param="standardize",
                hint='Use "standardize": false; it is meant for one label of three classes or more.',
            )
