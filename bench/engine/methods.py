"""What the engine's bench compares: one student taught in every way, and the students and schemes of their own kind.

Every method takes the same number of epochs, or says so; `without` in the table is the same student without a teacher.
"""

from typing import Any

from bench.engine.data import DataSet

Spec = dict[str, Any]

# Full width keeps the teacher's own word vectors and heads. Two layers with a third of their feed-forward parts and 4-bit tables of
# the job's own vocabulary: some 5 % of MiniLM's bytes. Words that occur once are spelled, where no states are compared.
SLIM: Spec = {"init": "teacher_layers", "layers": 2, "intermediate_size": 512}
# Vectors keep less of a teacher than classes do.
DEEPER: Spec = {"init": "teacher_layers", "layers": 3, "intermediate_size": 768, "trim_vocabulary": True}
SMALL: Spec = {"init": "teacher_layers", "layers": 2, "hidden_size": 128, "intermediate_size": 512, "trim_vocabulary": True}
NARROW: Spec = {"init": "teacher_layers", "layers": 3, "hidden_size": 192, "intermediate_size": 768, "trim_vocabulary": True}
STATIC: Spec = {"init": "static", "hidden_size": 256, "trim_vocabulary": True}
INT8: Spec = {"scheme": "int8_static", "tables": "int4"}
OWN_BASELINE = ("static", "narrow", "lora")  # methods with students of another kind
FACTOR = 4  # copies of a row that augmentation makes


def student_of(data: DataSet, rarest: int = 2) -> Spec:
    """`rarest`: how often a token occurs at least in the training rows, to have a vector of its own."""
    if data.task == "embedding":
        return DEEPER
    if data.chinese:
        return SMALL
    return {**SLIM, "trim_vocabulary": {"min_count": rarest, "common": 0, "characters": "corpus"}}


def methods(data: DataSet, epochs: int) -> dict[str, Spec]:
    """name → blocks laid over the common spec. The first is the plain one, whose report has the student without a teacher."""
    rate = 5e-4 if data.chinese else 3e-4

    def recipe(name: str, **params: Any) -> Spec:
        return {"recipe": {"type": name, "epochs": epochs, "learning_rate": rate, **params}}

    def inner(name: str) -> Spec:
        """Of a recipe that compares states token by token."""
        return {**recipe(name), "student": student_of(data, 1)}

    def stage(name: str, *objectives: tuple[str, float]) -> Spec:
        return {"stages": [_stage(name, {"epochs": epochs, "learning_rate": rate}, objectives)]}

    static = {**recipe("static", learning_rate=5e-3), "student": STATIC, "quantization": {"scheme": "int8_dynamic"}}
    if data.task == "embedding":
        return {
            "embedding": recipe("embedding"),
            "minilmv2": inner("minilmv2"),
            "static": static,
            "relations": stage("relations", ("rkd_distance", 1.0), ("rkd_angle", 1.0), ("similarity_kl", 1.0)),
            "infonce": stage("contrast", ("infonce", 1.0)),
            "int8_dynamic": {**recipe("embedding"), "quantization": {"scheme": "int8_dynamic"}},
        }
    if data.task == "ranking":
        return {
            "ranker": recipe("ranker"),
            "listmle": stage("order", ("listmle", 1.0)),
            "ranknet": stage("pairs", ("ranknet", 1.0)),
            "embedding": stage("vectors", ("embedding_cosine", 1.0), ("listnet", 1.0)),
        }
    fewer = max(1, round(2.5 * epochs / (1 + FACTOR)))  # two and a half times the others' steps
    more_rows: Spec = {"student": student_of(data, 4), "augmentation": [{"type": "mlm_replace", "factor": FACTOR}]}
    return {
        "response": recipe("response", alpha=0.5),
        "mlm_replace": {**recipe("response", alpha=0.7, epochs=fewer), **more_rows},
        "pkd": inner("pkd"),
        "distilbert": inner("distilbert"),
        "tinybert": inner("tinybert"),
        "minilm": inner("minilm"),
        "minilmv2": inner("minilmv2"),
        "self_mutual": recipe("self_mutual"),
        "born_again": recipe("born_again"),
        "qad": {**recipe("qad", alpha=0.5), "quantization": {"scheme": "int8_qat"}},
        "static": static,
        "relations": stage("relations", ("response", 1.0), ("rkd_distance", 1.0), ("hard_label", 0.5)),
        "annealed": recipe("response", alpha=0.5, temperature={"schedule": "cosine", "start": 8, "end": 1}),
        "mixup": {**recipe("response", alpha=0.5), "augmentation": [{"type": "mixup"}]},
        "lora": {
            **recipe("response", alpha=0.5, learning_rate=2e-3),
            "student": {**student_of(data), "adapter": {"type": "lora", "r": 16}},
        },
        "int8_dynamic": {**recipe("response", alpha=0.5), "quantization": {"scheme": "int8_dynamic", "tables": "int4"}},
        "narrow": {**recipe("response", alpha=0.5), "student": NARROW, "quantization": {"scheme": "int8_dynamic"}},
    }


def _stage(name: str, pace: Spec, objectives: tuple[tuple[str, float], ...]) -> Spec:
    return {"name": name, "objectives": [{"type": kind, "weight": weight} for kind, weight in objectives], **pace}
