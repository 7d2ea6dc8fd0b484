"""Hinton's distillation: one stage of soft labels mixed with hard ones."""

from worker.recipes.base import ENCODERS, MIX, PACE, UNLABELLED, Recipe, SoftParams


class Response(Recipe):
    """L = alpha tau² KL(p_tau ‖ q_tau) + (1 − alpha) CE(y, q), all weights trained.

    A number is learned by its squared error, a vector by its cosine, a ranking by ListNet, in place of the KL.
    Source: Hinton et al. 2015, arXiv 1503.02531.
    """

    name = "response"
    tasks = ENCODERS
    task_defaults = UNLABELLED
    stages = [{"name": "response", "objectives": MIX, **PACE}]

    class Params(SoftParams):
        pass
