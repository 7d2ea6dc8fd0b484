"""What a task is to the engine: how its records become rows, which head its models carry, what they answer, how that is judged.

One file per task. Everything else (loop, cache, students, exporters, reports) works on signals and never asks which task it is.
Shapes: see `worker/signals.py`.
"""

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel

from app.domain.errors import IncompatibleModels
from app.quality import Quality
from worker import capture
from worker.rows import Batch, Rows, by_length, collate
from worker.signals import Need, Shape, Signals, Wants
from worker.surgery import static_model  # noqa: F401  makes transformers' Auto classes know it, wherever models are loaded


@dataclass(frozen=True)
class About:
    """What the prepared data says of the task (data.json), and which of the two scorers of a ranker this model is."""

    task: str
    problem: str
    labels: tuple[str, ...]
    max_length: int
    pairs: bool = False
    scorer: str = "cross_encoder"

    @classmethod
    def of(cls, data: dict[str, Any], scorer: str = "cross_encoder") -> "About":
        return cls(data["task"], data["problem"], tuple(data["labels"]), data["max_length"], data.get("pairs", False), scorer)


@dataclass(frozen=True)
class Outputs:
    """What a model says of every sequence of a split, in the rows' order; only what the task needs is there."""

    logits: Any = None  # (N, C); a list of (P, C) for tokens; (P, 3) scores of a masked language model
    embedding_BE: NDArray[np.float32] | None = None


class Head(ABC):
    """Subclasses are stateless but for `about`."""

    task: ClassVar[str]
    auto: ClassVar[Any] = AutoModel  # the transformers class that loads and makes such a model
    suffix: ClassVar[str] = ""  # of an architecture that carries this head
    offers: ClassVar[frozenset[Need]]  # what objectives may read
    hard: ClassVar[Sequence[tuple[str, dict[str, Any]]]]  # objectives that learn from labels alone, for fitting and baseline

    def __init__(self, about: About) -> None:
        self.about = about

    # -- models ------------------------------------------------------------------------------------------------------

    def load(self, folder: Path, dtype: torch.dtype = torch.float32, attention: str | None = None) -> PreTrainedModel:
        """The folder's model with this task's head: its own where it fits, a fresh one otherwise (torch is seeded)."""
        config = self.configured(AutoConfig.from_pretrained(folder, local_files_only=True))
        own = self.fits(folder)
        model: PreTrainedModel = self.auto.from_pretrained(
            folder,
            config=config,
            ignore_mismatched_sizes=not own,
            use_safetensors=True,
            local_files_only=True,
            dtype=dtype,
            **({} if attention is None else {"attn_implementation": attention}),
            **_no_pooler(self.auto, config),
        )
        return model

    def make(self, config: Any) -> PreTrainedModel:
        """An untrained model of this shape."""
        configured = self.configured(config)
        model: PreTrainedModel = self.auto.from_config(configured, **_no_pooler(self.auto, configured))
        torch.nn.Module.to(model, torch.float32)
        return model

    def save(self, model: PreTrainedModel, tokenizer_dir: Path, folder: Path) -> None:
        """A transformers folder: config, safetensors, tokenizer."""
        torch.nn.Module.to(model, torch.float32).save_pretrained(folder)
        AutoTokenizer.from_pretrained(tokenizer_dir, local_files_only=True).save_pretrained(folder)

    def configured(self, config: Any) -> Any:
        """The config with this task's labels in it."""
        if self.about.labels:
            config.num_labels = len(self.about.labels)
            config.id2label = dict(enumerate(self.about.labels))
            config.label2id = {label: i for i, label in config.id2label.items()}
        return config

    def fits(self, folder: Path) -> bool:
        """Whether the folder's model already answers this task, label by label."""
        return self.misfit(json.loads((folder / "config.json").read_text())) is None

    def misfit(self, config: dict[str, Any]) -> str | None:
        """What keeps a model of this config.json from answering the task, after "The teacher …"; None: nothing."""
        if not any(name.endswith(self.suffix) for name in config.get("architectures") or []):
            return "has no head for this task"
        names = config.get("id2label") or {}
        own, wanted = [str(names[key]) for key in sorted(names, key=int)], list(self.about.labels)
        return None if not wanted or own == wanted else f"knows the labels {own[:5]}, the rows have {wanted[:5]}"

    def require(self, folder: Path) -> None:
        """Raises IncompatibleModels unless the folder's model already does the task."""
        told = self.misfit(json.loads((folder / "config.json").read_text()))
        if told is None:
            return
        raise IncompatibleModels(
            f"The teacher {told}.",
            param="teacher.finetune",
            hint='Add "teacher": {"finetune": {"epochs": 3}} to fit it on your rows first.',
        )

    def shape(self, model: PreTrainedModel, influence: tuple[float, ...] = ()) -> Shape:
        return replace(capture.shape_of(model, influence=influence), classes=len(self.about.labels))

    # -- rows and answers --------------------------------------------------------------------------------------------

    @abstractmethod
    def encode(self, records: Sequence[dict[str, Any]], tokenizer: Any) -> Rows:
        """Prepared records (see `worker/phases/prepare.py`) as token ids."""

    @abstractmethod
    def forward(self, model: PreTrainedModel, batch: Batch, wants: Wants, ids_BT: Tensor | None = None) -> Signals:
        """What is wanted of one micro-batch; see `capture.run` for `ids_BT`."""

    @abstractmethod
    def answers(self) -> Wants:
        """What a prediction of this task consists of."""

    @abstractmethod
    def judge(self, outputs: Outputs, rows: Rows, teacher: Outputs | None, resamples: int = 0, seed: int = 0) -> Quality:
        """Quality of these answers over the rows that can be judged. Raises ValueError where it is not defined."""

    def comparable(self, outputs: Outputs, rows: Rows) -> Outputs:
        """A teacher's outputs as `judge` of another model takes them."""
        return outputs

    @torch.no_grad()
    def predict(
        self,
        model: PreTrainedModel,
        rows: Rows,
        device: torch.device,
        batch_size: int = 64,
        remap: Any = None,
        wants: Wants | None = None,
    ) -> Outputs:
        """A pass without gradients over all examples, little padded; train or eval mode is left as it was.

        `wants`: something else than what a prediction consists of.
        """
        was_training = model.training
        model.train(False)
        found: list[tuple[list[int], Signals, Batch]] = []
        for n, examples in enumerate(by_length(rows, batch_size)):
            batch = collate(rows, examples, n).to(device)
            ids_BT = remap(batch.input_ids_BT) if remap else None
            found.append((examples, self.forward(model, batch, wants or self.answers(), ids_BT), batch))
        model.train(was_training)
        return self.gather(rows, found)

    def gather(self, rows: Rows, found: list[tuple[list[int], Signals, Batch]]) -> Outputs:
        """One row of logits, or one vector, per sequence, in the rows' order."""
        if not found:
            return Outputs()
        index = torch.cat([batch.index_B.cpu() for _, _, batch in found])

        def ordered(values: list[Tensor]) -> NDArray[np.float32] | None:
            if not values:
                return None
            joined = torch.cat([value.float().cpu() for value in values])
            result = torch.empty_like(joined)
            result[index] = joined
            return np.asarray(result.numpy(), dtype=np.float32)

        return Outputs(
            ordered([s.logits_NC for _, s, _ in found if s.logits_NC is not None]),
            ordered([s.embedding_BE for _, s, _ in found if s.embedding_BE is not None]),
        )


def outputs_of(config: dict[str, Any]) -> int:
    """How many numbers the head of such a config.json gives; two where it does not say."""
    names = config.get("id2label")
    return len(names) if names else int(config.get("num_labels") or 2)


def _no_pooler(auto: Any, config: Any) -> dict[str, bool]:
    """A bare encoder's pooler is never used here: it is left out where the class allows."""
    if auto is not AutoModel:
        return {}
    cls: Any = AutoModel._model_mapping[type(config)]
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(cls).parameters else {}
