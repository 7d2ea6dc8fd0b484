"""A student that somebody pretrained: any encoder transformers can put the task's head on."""

from pydantic import Field
from transformers import PreTrainedModel

from worker.students.base import Origin, StudentInit, StudentParams


class Pretrained(StudentInit):
    """Load a smaller pretrained encoder; its own head where it already answers this task label by label, else a fresh one.

    Its tokenizer may differ from the teacher's: classes, scores and vectors belong to rows, not to tokens. Objectives that
    compare hidden states or attention token by token need the teacher's tokenizer.
    """

    name = "pretrained"
    speaks = "student_dir"

    class Params(StudentParams):
        source: str = Field(default="registry", pattern="^(hub|local|registry)$", description="Where the model comes from.")
        model: str = Field(min_length=1, max_length=200, description="Its name there.")
        revision: str | None = Field(default=None, max_length=100, description="Of a hub's model: a commit or tag.")

    params: Params

    def make(self, origin: Origin) -> PreTrainedModel:
        assert origin.student_dir is not None  # the request brings it whenever this initialiser is asked for
        self.plan |= {"model": self.params.model, "own_head": origin.head.fits(origin.student_dir)}
        return origin.head.load(origin.student_dir)
