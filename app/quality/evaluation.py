"""One entry to the quality of a model, whatever it was asked."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from app.quality import embedding, masked_lm, multi_label, ranking, regression, single_label, tokens
from app.quality.bootstrap import Bootstrap
from app.quality.result import Quality

Problem = Literal["single_label", "multi_label", "regression", "tokens", "embedding", "ranking", "masked_lm"]
PROBLEMS: tuple[Problem, ...] = get_args(Problem)

_BY_PROBLEM: dict[Problem, Callable[[Any, Any, Any, Sequence[str], Bootstrap], Quality]] = {
    "single_label": single_label.evaluate,
    "multi_label": multi_label.evaluate,
    "regression": regression.evaluate,
    "tokens": tokens.evaluate,
    "embedding": embedding.evaluate,
    "ranking": ranking.evaluate,
    "masked_lm": masked_lm.evaluate,
}


def evaluate(
    problem: Problem,
    outputs: Any,
    targets: Any = None,
    teacher: Any = None,
    labels: Sequence[str] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> Quality:
    """One model's answers to N rows, held against targets and, where given, against the teacher's answers to the same rows.

    Shapes and figures are those of the problem's own file; `targets` may be None for "embedding" and "ranking", and are for
    "masked_lm". `resamples`: of the bootstrap that gives the 95 % interval; 0 leaves it out.
    Raises ValueError, which says what is wrong with the rows or the answers.
    """
    if targets is None and problem in ("single_label", "multi_label", "regression", "tokens"):
        raise ValueError("there are no labelled rows to evaluate on")
    return _BY_PROBLEM[problem](outputs, targets, teacher, labels, Bootstrap(resamples, seed))
