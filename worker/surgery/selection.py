"""Which heads and which feed-forward neurons of a teacher's layer a narrower student repeats.

Shapes: N tokens, E teacher width, F teacher neurons, H heads of S numbers.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worker.anatomy import Layer


@dataclass(frozen=True)
class Heads:
    """`maps[part]` (E, K) takes a part's E numbers to the K of the student that repeat them; they go to places `at` of its own.

    More heads than the teacher has, or larger ones, leave places free: what is there stays as it was made.
    """

    maps: dict[str, Tensor]
    at: Tensor


def heads(wide: Layer, input_NE: Tensor, count: int, teacher_count: int, width: int) -> Heads:
    """Those that move the stream most, Σ var(v_h W_o,h). A smaller head keeps its leading directions.

    Queries are scaled by √(s/S): scores are divided by the root of the head size.
    """
    size, narrow_size = wide.query.out_features // teacher_count, width // count
    values_NHS = torch.unflatten(wide.value(input_NE), -1, (teacher_count, size))
    out_EHS = torch.unflatten(wide.attention_out.weight, -1, (teacher_count, size))
    moved_H = torch.stack([_moved(values_NHS[:, h], out_EHS[:, h]) for h in range(teacher_count)])
    chosen = moved_H.topk(min(count, teacher_count)).indices.sort().values.tolist()
    taken = min(size, narrow_size)
    maps = {}
    for part in ("query", "key", "value"):
        found = torch.zeros(teacher_count * size, len(chosen) * taken)
        for n, h in enumerate(chosen):
            directions_SK = torch.eye(size) if taken == size else _leading(wide, part, input_NE, h, teacher_count, taken)
            found[h * size : (h + 1) * size, n * taken : (n + 1) * taken] = directions_SK
        maps[part] = found
    maps["query"] *= (narrow_size / size) ** 0.5
    return Heads(maps, torch.cat([torch.arange(taken) + n * narrow_size for n in range(len(chosen))]))


def neurons(raw_NF: Tensor, activation: Any, out_weight_EF: Tensor, count: int) -> Tensor:
    """The `count` neurons of the largest std(a_f) ‖W_out,f‖, in rising order."""
    strength_F: Tensor = activation(raw_NF).std(0, correction=0) * out_weight_EF.norm(dim=0)
    return strength_F.topk(count).indices.sort().values


def _moved(value_NS: Tensor, out_ES: Tensor) -> Tensor:
    """Σ_e var(v W_o)_e = tr(W_o cov(v) W_oᵀ), without the product for every token."""
    result: Tensor = (out_ES @ torch.cov(value_NS.T, correction=0) * out_ES).sum()
    return result


def _leading(wide: Layer, part: str, input_NE: Tensor, head: int, heads: int, taken: int) -> Tensor:
    """(S, K); queries and keys must share theirs, or their products would change."""
    sources = [wide.value] if part == "value" else [wide.query, wide.key]
    size = wide.query.out_features // heads
    second_SS = torch.zeros(size, size, dtype=torch.float64)
    for source in sources:
        given_NS = torch.unflatten(source(input_NE), -1, (heads, -1))[:, head].double()
        second_SS += given_NS.T @ given_NS / given_NS.square().sum().clamp_min(1e-300)
    leading: Tensor = torch.linalg.eigh(second_SS)[1].flip(-1)[:, :taken].float()
    return leading
