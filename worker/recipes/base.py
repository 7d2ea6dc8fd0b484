"""What a recipe is: a named plan of training, written as templates of stages that `app/domain/recipes.py` fills in for a job.

There it says which placeholders a template may hold.
"""

from typing import Any, ClassVar

from pydantic import Field

from app.domain.schedule import Scheduled
from worker.plugins import PluginParams

Template = dict[str, Any]


class RecipeParams(PluginParams):
    epochs: int = Field(default=10, ge=1, le=1000, description="Passes over the training rows, of all stages together.")
    learning_rate: float = Field(default=5e-4, gt=0, description="Peak of every stage; right for students some 200 wide.")
    batch_size: int = Field(default=32, ge=1, le=65536, description="Rows per optimiser step.")


class SoftParams(RecipeParams):
    """Of a recipe with `MIX` among its objectives."""

    alpha: float = Field(default=0.9, ge=0, le=1, description="Weight of what the teacher says; labels get the rest, at 1 none.")
    temperature: Scheduled = Field(
        default=2.0, validate_default=True, description="Softmax temperature of both sides, of classes and tokens alone."
    )


class FeatureParams(SoftParams):
    """Of a recipe in two stages: the teacher's inner states first, then its answers."""

    epochs: int = Field(default=10, ge=2, le=1000, description="Passes over the training rows, of both stages together.")
    feature_share: float = Field(default=0.5, gt=0, lt=1, description="Part of the epochs that goes to the first stage.")
    alpha: float = Field(default=1.0, ge=0, le=1, description="Second stage: weight of what the teacher says; labels get the rest.")


class Recipe:
    """Subclasses give `name`, `Params`, `stages`, and a docstring with the loss and its source."""

    name: ClassVar[str]
    tasks: ClassVar[frozenset[str]]  # that it is for
    problems: ClassVar[frozenset[str]] = frozenset()  # kinds of targets that it is for; empty: all
    students: ClassVar[frozenset[str]] = frozenset()  # kinds of student.init that it is for; empty: all
    stages: ClassVar[list[Template]]
    defaults: ClassVar[dict[str, Template]] = {}  # of other blocks of the spec, where the caller leaves them out
    task_defaults: ClassVar[dict[str, dict[str, Any]]] = {}  # task → parameters whose default is another one there

    class Params(RecipeParams):
        pass


CLASSIFIERS = frozenset({"text-classification", "token-classification"})
ENCODERS = CLASSIFIERS | {"embedding", "ranking", "masked-lm"}
UNLABELLED: dict[str, dict[str, Any]] = {"embedding": {"alpha": 1.0}, "ranking": {"alpha": 1.0}}  # their rows need no labels

MIX: list[Template] = [  # alpha · teacher + (1 − alpha) · labels
    {"$soft": {"temperature": {"$param": "temperature"}, "weight": {"$param": "alpha"}}},
    {"$hard": {"weight": {"$one_minus": "alpha"}}},
]

PACE: Template = {name: {"$param": name} for name in ("epochs", "learning_rate", "batch_size")}
FEATURES: Template = PACE | {"epochs": {"$first": ["epochs", "feature_share"]}}
OUTPUT: Template = {"name": "output", "objectives": MIX} | PACE | {"epochs": {"$rest": ["epochs", "feature_share"]}}
