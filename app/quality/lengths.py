"""Quality of short and long rows. N rows."""

from typing import Any

import numpy as np

from app.quality.result import Floats, Ints


def by_length(lengths_N: Ints, scores_N: Floats) -> list[dict[str, Any]]:
    """Mean row score of the shortest, middle and longest third, by tokens; ties stay in one bucket, NaN scores do not count."""
    lengths_N, scores_N = np.asarray(lengths_N), np.asarray(scores_N, dtype=np.float64)
    buckets, below = [], 0
    for edge in np.unique(np.quantile(lengths_N, [1 / 3, 2 / 3, 1], method="lower")).astype(int).tolist():
        inside_N = (lengths_N > below) & (lengths_N <= edge) & np.isfinite(scores_N)
        if inside_N.any():
            score = float(scores_N[inside_N].mean())
            buckets.append({"tokens": [below + 1, edge], "rows": int(inside_N.sum()), "score": score})
        below = edge
    return buckets
