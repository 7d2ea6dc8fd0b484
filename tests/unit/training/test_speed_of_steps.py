"""What makes steps cheaper leaves them what they are: attention kernels, number formats, looks at single gradients."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertForSequenceClassification, PreTrainedModel

from app.domain.schedule import Schedule
from tests.fixtures.tiny import make_rows, make_tiny_teacher
from tests.unit.training.test_loop import CPU, HEAD, PLAN, place, taught
from worker import precision
from worker.objectives.hard_label import HardLabel
from worker.objectives.response import Response
from worker.rows import Rows, tokenize
from worker.training import loop
from worker.training.attention import PLAIN_BYTES, plain, plain_is_faster


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_teacher(tmp_path_factory.mktemp("speed") / "teacher")


@pytest.fixture(scope="module")
def rows(folder: Path) -> Rows:
    made = make_rows(folder.parent / "rows.jsonl", 40, seed=4)
    names = sorted({str(r["label"]) for r in made})
    records = [{"id": i, "text": r["text"], "label": names.index(str(r["label"]))} for i, r in enumerate(made)]
    return tokenize(records, AutoTokenizer.from_pretrained(folder), 24)


def _model(folder: Path) -> PreTrainedModel:
    torch.manual_seed(0)
    made: PreTrainedModel = BertForSequenceClassification.from_pretrained(
        folder, num_labels=5, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    return made


def test_plain_attention_where_it_pays_and_fits(folder: Path) -> None:
    model = _model(folder)
    assert plain_is_faster(model, 24, 32, CPU, bf16=True)
    assert not plain_is_faster(model, 24, 32, CPU, bf16=False)
    assert not plain_is_faster(model, 24, 32, torch.device("cuda"), bf16=True)
    sizes = (n for n in range(1, 20_000) if not plain_is_faster(model, n, 8, CPU, bf16=True))
    longest, heads, layers = next(sizes), model.config.num_attention_heads, model.config.num_hidden_layers
    assert 4 * 3 * 8 * heads * layers * (longest - 1) ** 2 <= PLAIN_BYTES < 4 * 3 * 8 * heads * layers * longest**2


def test_plain_attention_says_the_same_and_is_given_back(folder: Path) -> None:
    model = _model(folder)
    ids, mask = torch.randint(5, 60, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    mask[1, 4:] = 0
    before, kernel = model(input_ids=ids, attention_mask=mask).logits, model.config._attn_implementation
    with plain(model, True):
        assert model.config._attn_implementation == "eager"
        torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, before, rtol=1e-5, atol=1e-5)
    assert model.config._attn_implementation == kernel == "sdpa"
    with plain(model, False):
        assert model.config._attn_implementation == kernel


@pytest.mark.parametrize(
    ("told", "wanted", "format_"),
    [
        ({"avx512_bf16": True}, "auto", "bf16"),
        ({"amx_bf16": True}, "auto", "bf16"),
        ({"avx512_bf16": False}, "auto", "no"),
        ({}, "auto", "no"),
        ({}, "bfloat16", "bf16"),
        ({"avx512_bf16": True}, "float32", "no"),
    ],
)
def test_bf16_products_where_the_processor_has_them(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, bool], wanted: str, format_: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert precision.mixed_precision(wanted, CPU) == format_
    assert precision.model_dtype("auto", CPU) == torch.float32


def test_an_older_torch_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert precision.mixed_precision("auto", CPU) == "no"


def test_a_look_at_every_gradient_changes_no_step(
    folder: Path, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights after a few steps, each of them looked at or none."""
    teacher_NC = torch.randn(len(rows), 5, generator=torch.Generator().manual_seed(1))
    plan = replace(PLAN, objectives=[(HardLabel(), Schedule(start=0.6)), (Response(temperature=2.0), Schedule(start=0.4))])

    def trained(steps: int) -> dict[str, torch.Tensor]:
        monkeypatch.setattr(loop, "GUARD_STEPS", steps)
        student = _model(folder)
        loop.fit(student, HEAD, plan, taught(rows, rows.only([]), teacher_NC), place(tmp_path / str(steps)))
        return student.state_dict()

    looked, plain_steps = trained(10**6), trained(0)
    for name, value in looked.items():
        torch.testing.assert_close(value, plain_steps[name], rtol=1e-4, atol=1e-6, msg=name)


def test_one_process_trains_in_one_format_after_the_other(folder: Path, rows: Rows, tmp_path: Path) -> None:
    """And bf16 products change a loss by little."""
    losses = {}
    for format_ in ("bf16", "no", "bf16"):
        where = place(tmp_path / f"{format_}-{len(losses)}", mixed_precision=format_)
        losses[format_] = loop.fit(_model(folder), HEAD, PLAN, taught(rows, rows.only([])), where).final_loss
    assert losses["bf16"] is not None
    assert losses["bf16"] == pytest.approx(losses["no"], rel=0.05)
    assert losses["bf16"] != losses["no"]
