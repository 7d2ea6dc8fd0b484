"""What a target asks, and by how much measured figures fall short of it."""

from collections.abc import Mapping
from typing import Any

from app.domain.spec import Target

_WORDS = {
    "min_retention": ("retention", "keeps {found:.1%} of the teacher's quality, {wanted:.1%} was asked"),
    "min_speedup": ("speedup", "is {found:.1f} times as fast as the teacher, {wanted:.1f} was asked"),
    "max_size_ratio": ("size_ratio", "has {found:.1%} of the teacher's bytes, {wanted:.1%} was allowed"),
    "max_latency_ms": ("latency_ms", "answers a text in {found:.2f} ms (p50), {wanted:.2f} was allowed"),
}


def shortfalls(target: Target, figures: Mapping[str, float | None], only: tuple[str, ...] = tuple(_WORDS)) -> list[dict[str, Any]]:
    """For every bound that is missed, or could not be measured: {"bound", "wanted", "found", "message"}; empty when all are met."""
    missed = []
    for bound in only:
        wanted = getattr(target, bound)
        name, words = _WORDS[bound]
        found = figures.get(name)
        if wanted is None:
            continue
        if found is None:
            missed.append({"bound": bound, "wanted": wanted, "found": None, "message": f"its {name} could not be measured"})
        elif found < wanted if bound.startswith("min") else found > wanted:
            missed.append({"bound": bound, "wanted": wanted, "found": found, "message": words.format(found=found, wanted=wanted)})
    return missed
