"""MiniLMv2: first the relations among queries, among keys and among values of one teacher layer, then its answers."""

from typing import Literal

from pydantic import Field, PositiveInt

from worker.recipes.base import ENCODERS, FEATURES, OUTPUT, FeatureParams, Recipe


class MiniLMv2(Recipe):
    """Stage 1: Σ over Q, K, V of mean_R KL(R_T ‖ R_S), R relation heads: depths, widths and numbers of heads may all differ.
    Stage 2: L = alpha tau² KL(p_tau ‖ q_tau) + (1 − alpha) CE(y, q).

    Published: stage 1 alone, on a large corpus, 48 relation heads (64 of a large teacher, from its layer 21), learning rate
    6e-4. Source: Wang et al. 2020, arXiv 2012.15828.
    """

    name = "minilmv2"
    tasks = ENCODERS
    stages = [
        {
            "name": "relations",
            "objectives": [
                {
                    "type": "minilmv2",
                    "teacher_layer": {"$param": "teacher_layer"},
                    "relation_heads": {"$param": "relation_heads"},
                }
            ],
            **FEATURES,
        },
        OUTPUT,
    ]

    class Params(FeatureParams):
        teacher_layer: Literal["last"] | PositiveInt = Field(default="last", description="Counted from 1, or its last.")
        relation_heads: PositiveInt | None = Field(
            default=None, description="R. Default: the most that divide both widths, up to the teacher's heads."
        )
