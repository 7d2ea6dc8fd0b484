"""A student that somebody pretrained: any encoder transformers can put a classification head on."""

from pathlib import Path

from pydantic import Field
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from worker.plugins import PluginParams
from worker.students.base import Origin, StudentInit


class Pretrained(StudentInit):
    """Load a smaller pretrained encoder and give it a fresh head for the job's labels.

    Its tokenizer may differ from the teacher's: for classes the teacher's logits belong to rows, not to tokens.
    """

    name = "pretrained"

    class Params(PluginParams):
        source: str = Field(default="registry", pattern="^(hub|local|registry)$")
        model: str = Field(min_length=1, max_length=200)
        revision: str | None = Field(default=None, max_length=100)

    params: Params

    def build(self, origin: Origin) -> PreTrainedModel:
        assert origin.student_dir is not None
        ids = dict(enumerate(origin.labels))
        self.plan = {"init": self.name, "model": self.params.model}
        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            origin.student_dir,
            num_labels=len(origin.labels),
            id2label=ids,
            label2id={label: i for i, label in ids.items()},
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            local_files_only=True,
            dtype="float32",
        )
        return model

    def tokenizer_dir(self, origin: Origin) -> Path:
        assert origin.student_dir is not None
        return origin.student_dir
