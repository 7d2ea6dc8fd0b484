"""A student that was pretrained by somebody: loaded as it is, with a head for the job's labels."""

from pathlib import Path

import torch
from transformers import AutoModel

from tests.fixtures.tiny import make_tiny_teacher
from worker.students.base import Origin
from worker.students.pretrained import Pretrained


def test_the_encoder_is_kept_and_gets_a_head_for_the_labels(tmp_path: Path) -> None:
    given = make_tiny_teacher(tmp_path / "small", layers=1, hidden_size=16, seed=9)
    origin = Origin(tmp_path / "teacher", given, ["no", "yes", "maybe"], [], 16)
    init = Pretrained(model="small")
    torch.manual_seed(0)
    student = init.build(origin)
    assert student.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert student.config.num_labels == 3
    assert init.tokenizer_dir(origin) == given
    encoder = AutoModel.from_pretrained(given).state_dict()
    inner = student.base_model.state_dict()
    assert all(torch.equal(inner[name], value) for name, value in encoder.items() if "pooler" not in name)
