"""Quantization-aware distillation: response distillation, then the same student taught under INT8's arithmetic."""

from worker.recipes.base import ENCODERS, MIX, PACE, UNLABELLED, Recipe, SoftParams


class QAD(Recipe):
    """L = alpha tau² KL(p_tau ‖ q_tau) + (1 − alpha) CE(y, q) in float, then int8_qat: the rounded student hears both.

    Sources: Polino et al. 2018, arXiv 1802.05668; fake quantization: Jacob et al. 2017, arXiv 1712.05877.
    """

    name = "qad"
    tasks = ENCODERS
    task_defaults = UNLABELLED
    defaults = {"quantization": {"scheme": "int8_qat"}}
    stages = [{"name": "response", "objectives": MIX, **PACE}]

    class Params(SoftParams):
        pass
