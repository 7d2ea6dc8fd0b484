"""What the engine's bench compares: the same narrow student taught in every way, and the students and schemes of their own kind.

Every method trains the student for the same number of epochs; the baseline in each report is that student without a teacher.
"""

from typing import Any

Spec = dict[str, Any]

# Three of MiniLM's six layers at half their width, with the job's own vocabulary: 91 MB become some 2 MB in INT8.
NARROW: Spec = {"init": "teacher_layers", "layers": 3, "hidden_size": 192, "intermediate_size": 768, "trim_vocabulary": True}
WIDE: Spec = {"init": "teacher_layers", "layers": 2, "trim_vocabulary": True}  # full width, for maps that need equal heads


def methods(task: str, epochs: int, rate: float) -> dict[str, Spec]:
    """name → blocks laid over the common spec."""
    pace = {"epochs": epochs, "learning_rate": rate}

    def recipe(name: str, **params: Any) -> Spec:
        return {"recipe": {"type": name, **pace, **params}}

    if task == "embedding":
        return {
            "embedding": recipe("embedding"),
            "minilmv2": recipe("minilmv2"),
            "static": {**recipe("static", learning_rate=5e-3), "student": {"init": "static", "hidden_size": 256}},
            "relations": {
                "stages": [_stage("relations", pace, [("rkd_distance", 1.0), ("rkd_angle", 1.0), ("similarity_kl", 1.0)])]
            },
            "infonce": {"stages": [_stage("contrast", pace, [("infonce", 1.0)])]},
            "int8_static": {**recipe("embedding"), "quantization": {"scheme": "int8_static"}},
        }
    if task == "ranking":
        return {
            "ranker": recipe("ranker"),
            "listmle": {"stages": [_stage("order", pace, [("listmle", 1.0)])]},
            "ranknet": {"stages": [_stage("pairs", pace, [("ranknet", 1.0)])]},
            "embedding": {"stages": [_stage("vectors", pace, [("embedding_cosine", 1.0), ("listnet", 1.0)])]},
        }
    return {
        "response": recipe("response", alpha=0.5),
        "distilbert": recipe("distilbert"),
        "pkd": recipe("pkd"),
        "tinybert": recipe("tinybert"),
        "minilm": {**recipe("minilm"), "student": WIDE},
        "minilmv2": recipe("minilmv2"),
        "self_mutual": recipe("self_mutual"),
        "born_again": recipe("born_again"),
        "qad": recipe("qad", alpha=0.5),
        "static": {**recipe("static", learning_rate=5e-3), "student": {"init": "static", "hidden_size": 256}},
        "relations": {"stages": [_stage("relations", pace, [("response", 1.0), ("rkd_distance", 1.0), ("hard_label", 0.5)])]},
        "annealed": {
            "recipe": {"type": "response", **pace, "alpha": 0.5, "temperature": {"schedule": "cosine", "start": 8, "end": 1}}
        },
        "mlm_replace": {**recipe("response", alpha=0.5), "augmentation": [{"type": "mlm_replace", "factor": 1}]},
        "mixup": {**recipe("response", alpha=0.5), "augmentation": [{"type": "mixup"}]},
        "lora": {**recipe("response", alpha=0.5), "student": {**NARROW, "adapter": {"type": "lora", "r": 16}}},
        "int8_static": {**recipe("response", alpha=0.5), "quantization": {"scheme": "int8_static"}},
    }


def _stage(name: str, pace: Spec, objectives: list[tuple[str, float]]) -> Spec:
    return {"name": name, "objectives": [{"type": kind, "weight": weight} for kind, weight in objectives], **pace}
