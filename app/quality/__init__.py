"""What a model's answers are worth, from arrays alone: `evaluate`, `compare`, `by_length`. NumPy and nothing else.

Worker and data plane measure with the same code, so a report and a comparison of two served models mean the same thing.
"""

from app.quality.comparison import Comparison, Difference, compare, difference
from app.quality.evaluation import PROBLEMS, Problem, evaluate
from app.quality.lengths import by_length
from app.quality.result import Quality

__all__ = [
    "PROBLEMS",
    "Comparison",
    "Difference",
    "Problem",
    "Quality",
    "by_length",
    "compare",
    "difference",
    "evaluate",
]
