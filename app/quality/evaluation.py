"""One entry to the quality of a model, whatever it was asked."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from app.quality import embedding, masked_lm, multi_label, ranking, regression, single_label, tokens
from app.quality.bootstrap import Bootstrap
from app.quality.result import Quality, same_rows

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
    *,
    labels: Sequence[str] = (),
    bootstrap: Bootstrap = Bootstrap(),
) -> Quality:
    """One model's answers to N rows, held against targets and, where given, against the teacher's answers to the same rows.

    Shapes and figures are those of the problem's own file; `targets` may be None for "embedding" and "ranking" only.
    Raises ValueError, which says what is wrong with the rows or the answers.
    """
    if targets is None and problem not in ("embedding", "ranking"):
        raise ValueError("there are no labelled rows to evaluate on")
    for others, what in ((targets, "labels"), (teacher, "the teacher's answers")):
        if others is not None:
            same_rows(outputs, others, what)
    return _BY_PROBLEM[problem](outputs, targets, teacher, labels, bootstrap)
