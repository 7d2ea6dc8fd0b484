"""Reading what the prepare phase left: the rows of a split, the labels, the cut."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Split:
    texts: list[str]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: list[int]) -> "Split":
        return Split([self.texts[r] for r in rows], self.labels[rows])


def describe(prepared: Path) -> dict[str, Any]:
    """data.json: labels, counts, skipped, test_is_validation, max_length."""
    found: dict[str, Any] = json.loads((prepared / "data.json").read_text(encoding="utf-8"))
    return found


def read_split(prepared: Path, name: str, *, labelled: bool = True, limit: int | None = None, seed: int = 0) -> Split:
    """Rows of `<name>.jsonl`, with their label (-1: none). `limit`: that many, drawn without replacement, in file order."""
    texts, labels = [], []
    with (prepared / f"{name}.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["label"] is not None or not labelled:
                texts.append(row["text"])
                labels.append(-1 if row["label"] is None else int(row["label"]))
    split = Split(texts, np.array(labels, dtype=np.int64))
    if limit is None or limit >= len(split):
        return split
    drawn = np.random.default_rng(seed).choice(len(split), size=limit, replace=False)
    return split.take(sorted(int(r) for r in drawn))
