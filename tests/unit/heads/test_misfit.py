"""Whether a given model already answers a task: its head's kind, its labels, and how many numbers it gives."""

from pathlib import Path
from typing import Any

import pytest
import torch

from app.domain.errors import IncompatibleModels
from tests.fixtures.encoders import TASKS, head_of, make_teacher
from tests.fixtures.tiny import make_tiny_teacher

NUMBERS = ("regression", "cross_encoder")


@pytest.mark.parametrize("task", TASKS)
def test_a_model_of_the_task_fits(tmp_path: Path, task: str) -> None:
    folder = make_teacher(tmp_path / "own", "bert", task)
    assert head_of(task).fits(folder)
    head_of(task).require(folder)


@pytest.mark.parametrize("task", NUMBERS)
@pytest.mark.parametrize("given", ["single_label", "multi_label"])
def test_a_number_is_one_output(tmp_path: Path, task: str, given: str) -> None:
    """A classifier's head is not taken for it: loading gives a fresh one, asking for it as it is says why not."""
    folder, head = make_teacher(tmp_path / "classifier", "bert", given), head_of(task)
    assert not head.fits(folder)
    with pytest.raises(IncompatibleModels, match=r"3 outputs; a .* is one") as refused:
        head.require(folder)
    assert "finetune" in str(refused.value.hint)
    torch.manual_seed(0)
    model: Any = head.load(folder)
    assert model.classifier.weight.shape[0] == 1
    theirs: Any = head_of(given).load(folder)
    ours, kept = model.base_model.state_dict(), theirs.base_model.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in ours.items())


@pytest.mark.parametrize("task", NUMBERS)
@pytest.mark.parametrize(
    ("config", "fits"),
    [
        ({}, False),  # two, where a config does not say
        ({"num_labels": 1}, True),
        ({"num_labels": 2}, False),
        ({"id2label": {"0": "LABEL_0"}}, True),
        ({"id2label": {"0": "no", "1": "yes"}}, False),
    ],
)
def test_how_many_outputs_a_config_says(task: str, config: dict[str, Any], fits: bool) -> None:
    told = head_of(task).misfit({"architectures": ["BertForSequenceClassification"], **config})
    assert (told is None) == fits
    assert "head for this task" in str(head_of(task).misfit({"architectures": ["BertModel"], **config}))


def test_an_encoder_without_a_head_says_so(tmp_path: Path) -> None:
    folder = make_tiny_teacher(tmp_path / "bare")
    for task in ("single_label", "regression", "tokens", "masked_lm", "cross_encoder"):
        with pytest.raises(IncompatibleModels, match="no head for this task"):
            head_of(task).require(folder)
    for task in ("embedding", "bi_encoder"):
        head_of(task).require(folder)
