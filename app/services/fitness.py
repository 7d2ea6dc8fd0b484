"""Whether a model can do a job's task, by its config alone: what `worker/heads` will say of it when the job runs."""

from app.domain.errors import IncompatibleModels, InvalidRequest, UnsupportedMethod
from app.domain.modelfiles import ModelInfo
from app.domain.spec import JobSpec
from app.domain.tasks import problem_of, task_of

_WRITERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_HEADS = {
    "ForSequenceClassification": "a classification head",
    "ForTokenClassification": "a head that classifies tokens",
    "ForMaskedLM": "a head that guesses masked words",
}
_SHIFTED = ("roberta", "xlm-roberta", "camembert")  # families whose positions are counted from behind the padding's own number
_FINETUNE = 'Add "finetune": {"epochs": 3} to it: it is then first fitted to the labelled rows.'


def is_encoder(info: ModelInfo, role: str, at: str, spec: JobSpec) -> None:
    """Raises unless it reads texts into states: a model that writes, or one without a tokenizer, does not."""
    if any(name.endswith(_WRITERS) for name in info.architectures):
        raise UnsupportedMethod(
            f"The {role} is a language model that writes text ({info.architectures[0]}); {spec.task} needs an encoder.",
            param=f"{at}.model",
            hint="Choose a BERT-like model.",
        )
    if not info.has_tokenizer:
        hint = "Bring tokenizer.json beside the weights."
        raise IncompatibleModels(f"The {role} has no tokenizer files.", param=f"{at}.model", hint=hint)


def job_labels(teacher: ModelInfo | None, spec: JobSpec, rows: list[str] | None) -> list[str] | None:
    """The labels in their order: those of a teacher that knows all the rows' labels already, else the rows' own, sorted."""
    if teacher is None or rows is None or spec.teacher.finetune is not None:
        return rows
    own = teacher.labels if any(name.endswith(head_suffix(spec, "teacher")) for name in teacher.architectures) else None
    return own if own and set(rows) <= set(own) else rows


def answers(info: ModelInfo, at: str, spec: JobSpec, labels: list[str] | None) -> None:
    """Raises unless the model already does the task, label by label: it will not be fitted first."""
    suffix = head_suffix(spec, "teacher")
    if suffix and not any(name.endswith(suffix) for name in info.architectures):
        raise UnsupportedMethod(
            f"The teacher is a {info.architectures[0] if info.architectures else info.model_type} without {_HEADS[suffix]}.",
            param=f"{at}.model",
            hint=_FINETUNE,
        )
    if (spec.task == "ranking" and suffix) or problem_of(spec) == "regression":
        if (outputs := info.num_labels or 1) != 1:
            what = "relevance" if spec.task == "ranking" else "number"
            raise IncompatibleModels(
                f"The teacher's head has {outputs} outputs; a {what} is one.", param=f"{at}.model", hint=_FINETUNE
            )
    elif labels and info.labels != labels and suffix != "ForMaskedLM":
        raise IncompatibleModels(
            f"The teacher knows the labels {_some(info.labels or [])}; the training rows have {_some(labels)}.",
            param=f"{at}.model",
            hint=f"{_FINETUNE} Or use rows with its own labels.",
        )


def head_suffix(spec: JobSpec, role: str) -> str:
    """What the architecture of a model that does the task ends in; empty: any encoder does it."""
    if spec.task == "ranking" and spec.ranking is not None and getattr(spec.ranking, role) == "bi_encoder":
        return ""
    return task_of(spec).head


def length(info: ModelInfo, role: str, spec: JobSpec) -> None:
    most = info.max_positions
    if most is not None and info.model_type in _SHIFTED:
        most -= 2
    if most is not None and spec.data.max_length > most:
        raise InvalidRequest(
            f"data.max_length is {spec.data.max_length}; the {role} reads at most {most} tokens.",
            param="data.max_length",
            hint=f"Choose at most {most}; longer texts are cut.",
        )


def _some(labels: list[str]) -> str:
    shown = ", ".join(repr(label[:30]) for label in labels[:5])
    return shown + (f" … ({len(labels)} in all)" if len(labels) > 5 else "")
