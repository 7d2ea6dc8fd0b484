"""MiniLM: first how the teacher's last layer attends and how its values relate, then its answers."""

from worker.recipes.base import ENCODERS, FEATURES, OUTPUT, FeatureParams, Recipe


class MiniLM(Recipe):
    """Stage 1: mean_H KL(A_T ‖ A_S) + mean_H KL(VR_T ‖ VR_S) of both last layers, which have the same number of heads.
    Stage 2: L = alpha tau² KL(p_tau ‖ q_tau) + (1 − alpha) CE(y, q).

    Published: stage 1 alone, on a large corpus, learning rate 5e-4. Source: Wang et al. 2020, arXiv 2002.10957.
    """

    name = "minilm"
    tasks = ENCODERS
    stages = [{"name": "relations", "objectives": [{"type": "minilm"}], **FEATURES}, OUTPUT]

    class Params(FeatureParams):
        pass
