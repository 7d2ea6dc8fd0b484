"""Rankings: the teacher's distribution over a query's documents, and the distances between its scores."""

from pydantic import Field

from app.domain.schedule import Scheduled
from worker.recipes.base import PACE, Recipe, RecipeParams


class Ranker(Recipe):
    """L = list_weight ListNet(s_T, s_S) + margin_weight MarginMSE(s_T, s_S) + hard_weight ListNet(grades, s_S).

    ListNet says which documents come first, MarginMSE how far apart they are. Sources: Cao et al. 2007, "Learning to Rank:
    From Pairwise Approach to Listwise Approach"; Hofstätter et al. 2020, arXiv 2010.02666.
    """

    name = "ranker"
    tasks = frozenset({"ranking"})
    stages = [
        {
            "name": "ranker",
            "objectives": [
                {
                    "type": "listnet",
                    "temperature": {"$param": "temperature"},
                    "weight": {"$param": "list_weight"},
                },
                {"type": "margin_mse", "teacher_scale": {"$param": "teacher_scale"}, "weight": {"$param": "margin_weight"}},
                {"$hard": {"weight": {"$param": "hard_weight"}}},
            ],
            **PACE,
        }
    ]

    class Params(RecipeParams):
        batch_size: int = Field(default=16, ge=1, le=65536, description="Queries per optimiser step, each with its documents.")
        temperature: Scheduled = Field(default=1.0, validate_default=True, description="tau of both sides' scores, for ListNet.")
        list_weight: float = Field(default=1.0, ge=0, le=1e6, description="Weight of ListNet.")
        margin_weight: float = Field(default=0.05, ge=0, le=1e6, description="Weight of MarginMSE, in squared scores.")
        teacher_scale: float = Field(
            default=1.0, gt=0, description="Multiplies the teacher's margins: for scores of another range than the student's."
        )
        hard_weight: float = Field(default=0.0, ge=0, le=1e6, description="Weight of the rows' own grades, where they have any.")
