"""Rows that are held out to validate with, drawn by the job's seed."""

import random
from collections import Counter, defaultdict

from worker.phases.targets import Record, names_in


def split(rows: list[Record], share: float, seed: int, problem: str) -> tuple[list[Record], list[Record]]:
    """(training, validation), both in file order.

    single_label: `share` of each label's rows, at least one where a label has two; unlabelled rows all stay in training.
    Other problems: `share` of the labelled rows and of the unlabelled ones, drawn at random; where labels have names only
    labelled rows, and never a label's last one.
    """
    held = _by_label(rows, share, seed) if problem == "single_label" else _at_random(rows, share, seed, problem)
    return [r for i, r in enumerate(rows) if i not in held], [r for i, r in enumerate(rows) if i in held]


def _by_label(rows: list[Record], share: float, seed: int) -> set[int]:
    groups: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        if row["label"] is not None:
            groups[str(row["label"])].append(i)
    held: set[int] = set()
    for label, members in sorted(groups.items()):
        shuffled = members[:]
        random.Random(f"{seed}:{label}").shuffle(shuffled)
        held.update(shuffled[: min(max(1, round(len(members) * share)), len(members) - 1)])
    return held


def _at_random(rows: list[Record], share: float, seed: int, problem: str) -> set[int]:
    labelled = [i for i, row in enumerate(rows) if row["label"] is not None]
    unlabelled = [i for i, row in enumerate(rows) if row["label"] is None]
    left = Counter(name for i in labelled for name in set(names_in(rows[i], problem)))
    groups = [labelled] if problem in ("multi_label", "tokens", "regression") else [labelled, unlabelled]
    held: set[int] = set()
    for n, members in enumerate(groups):
        wanted = len(held) + min(max(1, round(len(members) * share)), len(members) - 1)
        random.Random(f"{seed}:held:{n}").shuffle(members)
        for i in members:
            if len(held) >= wanted:
                break
            mine = set(names_in(rows[i], problem))
            if all(left[name] > 1 for name in mine):
                left.subtract(mine)
                held.add(i)
    return held
