"""Born-again networks: generation after generation of one student, each taught by the one before."""

from pydantic import Field

from app.domain.schedule import Scheduled
from worker.recipes.base import CLASSIFIERS, MIX, PACE, Recipe, SoftParams


class BornAgain(Recipe):
    """L_k = alpha tau² KL(q_{k−1} ‖ q_k) + (1 − alpha) CE(y, q_k); generation 0 learns from the job's teacher in its place.

    Every generation begins from the student's first weights again; the last one is kept. Published: both terms weigh the
    same, tau 1, up to three generations. Sources: Furlanello et al. 2018, arXiv 1805.04770; of rankers: Qin et al. 2021,
    arXiv 2109.15285.
    """

    name = "born_again"
    tasks = CLASSIFIERS | {"ranking"}
    task_defaults = {"ranking": {"alpha": 1.0}}
    stages = [
        {"name": "generation-0", "objectives": MIX, **PACE},
        {
            "name": {"$repeat": ["generation", {"$param": "generations"}]},
            "teacher": {"type": "previous"},
            "restart": True,
            "objectives": MIX,
            **PACE,
        },
    ]

    class Params(SoftParams):
        epochs: int = Field(default=6, ge=1, le=1000, description="Passes over the training rows, of each generation.")
        alpha: float = Field(default=0.5, ge=0, le=1, description="Weight of what the one before says; labels get the rest.")
        temperature: Scheduled = Field(
            default=1.0, validate_default=True, description="Softmax temperature of both sides, of classes and tokens alone."
        )
        generations: int = Field(default=2, ge=1, le=15, description="Generations after the one that the teacher teaches.")
