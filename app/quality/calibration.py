"""Reliability of probabilities: what a model claims against how often it is right. N rows or decisions."""

from typing import Any

import numpy as np

from app.quality.result import Bools, Floats

BINS = 15


def reliability(confidence_N: Floats, right_N: Bools, bins: int = BINS) -> list[dict[str, Any]]:
    """Equal-width bins (l, r] of the confidence that hold at least one row: rows, mean confidence, share that is right."""
    bin_N = np.clip(np.ceil(confidence_N * bins).astype(int) - 1, 0, bins - 1)
    rows_K = np.bincount(bin_N, minlength=bins)
    sure_K = np.bincount(bin_N, weights=confidence_N, minlength=bins)
    right_K = np.bincount(bin_N, weights=right_N, minlength=bins)
    return [
        {
            "from": k / bins,
            "to": (k + 1) / bins,
            "rows": int(rows_K[k]),
            "confidence": float(sure_K[k] / rows_K[k]),
            "right": float(right_K[k] / rows_K[k]),
        }
        for k in np.flatnonzero(rows_K).tolist()
    ]


def expected_error(found: list[dict[str, Any]]) -> float:
    """ECE = sum_b n_b / N |right_b - confidence_b| (arXiv 1706.04599)."""
    total = sum(b["rows"] for b in found)
    return float(sum(b["rows"] * abs(b["right"] - b["confidence"]) for b in found) / total)
