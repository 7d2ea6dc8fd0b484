"""Which matrices an INT8 graph can least afford: found by computing each more precisely and measuring the answers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.int8.error import Answer, Feed, answers, output_error
from worker.int8.matrices import FloatGraph, Matrix
from worker.int8.params import MatrixParams
from worker.int8.rewrite import Form, rewrite
from worker.int8.values import Affine

Forms = dict[str, Form]  # by the tensor that a matrix computes
Ranges = Mapping[str, Affine]  # by the tensor that is quantized


@dataclass(frozen=True)
class Step:
    """Matrices that went to a more precise form together."""

    matrices: tuple[Matrix, ...]
    form: Form
    error_before: float
    error_after: float


class Workbench:
    """Builds INT8 forms of one float graph and measures each on the same rows."""

    def __init__(
        self,
        graph: FloatGraph,
        matrices: list[Matrix],
        params: MatrixParams,
        feeds: Sequence[Feed],
        reference: Sequence[Answer],
        scratch: Path,
    ) -> None:
        self.graph, self.matrices, self.params = graph, matrices, params
        self.feeds, self.reference, self.scratch = feeds, reference, scratch

    def measure(self, forms: Mapping[str, Form], ranges: Ranges, every: int = 1) -> dict[str, float]:
        """The output error, on batches 0, every, 2 every, …."""
        model = rewrite(self.graph, self.matrices, forms, self.params, ranges)
        self.scratch.write_bytes(model.SerializeToString())
        return output_error(self.reference[::every], answers(self.scratch, self.feeds[::every]))

    def error(self, forms: Mapping[str, Form], ranges: Ranges, every: int = 1) -> float:
        return self.measure(forms, ranges, every)["relative"]


def relax(bench: Workbench, forms: Forms, ranges: Ranges, max_error: float, float_elements: int) -> tuple[Forms, list[Step]]:
    """Greedy: while the products' error is above `max_error`, the most rewarding matrices go to a more precise form.

    First from `static` to `rows`, all products of one tensor together: they share its row scales. Then to `float`, each
    matrix on its own, `float_elements` elements at most. The reward of each is measured once, from where its round
    starts, on every second batch; a step is then taken only if on all batches it still brings half of what one of n equal
    contributions to error² would. Errors of products and of tables add in squares, and tables alone are left out of account.
    """
    tables_only = bench.error({m.output: "rows" if m.kind == "table" else "float" for m in bench.matrices}, ranges)
    error, target, steps = bench.error(forms, ranges), math.hypot(max_error, tables_only), []
    sources = dict.fromkeys(m.source for m in bench.matrices if forms[m.output] == "static")
    together = [tuple(m for m in bench.matrices if m.source == source and m.kind == "product") for source in sources]
    alone: list[tuple[Matrix, ...]] = [(m,) for m in bench.matrices]
    rounds: list[tuple[Form, list[tuple[Matrix, ...]], int]] = [
        ("rows", together, sum(m.elements for m in bench.matrices)),
        ("float", alone, float_elements),
    ]
    for form, choices, budget in rounds:
        if error <= target:
            break
        choices = [c for c in choices if _elements(c) <= budget]
        reached = {c: bench.error(_changed(forms, c, form), ranges, every=2) for c in choices}
        for choice in sorted(choices, key=lambda c: reached[c]):
            if error <= target:
                break
            tried = _changed(forms, choice, form)
            if _elements(choice) > budget or (lower := bench.error(tried, ranges)) > error * (1 - 1 / (4 * len(choices))):
                continue
            steps.append(Step(choice, form, error, lower))
            forms, error, budget = tried, lower, budget - _elements(choice)
    return forms, steps


def _changed(forms: Forms, matrices: tuple[Matrix, ...], form: Form) -> Forms:
    return forms | {m.output: form for m in matrices}


def _elements(matrices: tuple[Matrix, ...]) -> int:
    return sum(m.elements for m in matrices)
