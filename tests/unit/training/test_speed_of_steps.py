"""What makes steps cheaper leaves them what they are: attention kernels, number formats, looks at single gradients."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.domain.schedule import Schedule
from tests.unit.training.test_loop import CPU, HEAD, PLAN, model, place, taught
from worker import precision
from worker.objectives.hard_label import HardLabel
from worker.objectives.response import Response
from worker.rows import Rows
from worker.training import loop
from worker.training.attention import PLAIN_BYTES, plain, plain_is_faster


def test_plain_attention_where_it_pays_and_fits(folder: Path) -> None:
    made = model(folder)
    assert plain_is_faster(made, 24, 32, CPU, bf16=True)
    assert not plain_is_faster(made, 24, 32, CPU, bf16=False)
    assert not plain_is_faster(made, 24, 32, torch.device("cuda"), bf16=True)
    sizes = (n for n in range(1, 20_000) if not plain_is_faster(made, n, 8, CPU, bf16=True))
    longest, heads, layers = next(sizes), made.config.num_attention_heads, made.config.num_hidden_layers
    assert 4 * 3 * 8 * heads * layers * (longest - 1) ** 2 <= PLAIN_BYTES < 4 * 3 * 8 * heads * layers * longest**2


def test_plain_attention_says_the_same_and_is_given_back(folder: Path) -> None:
    made = model(folder)
    ids, mask = torch.randint(5, 60, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    mask[1, 4:] = 0
    before, kernel = made(input_ids=ids, attention_mask=mask).logits, made.config._attn_implementation
    with plain(made, True):
        assert made.config._attn_implementation == "eager"
        torch.testing.assert_close(made(input_ids=ids, attention_mask=mask).logits, before, rtol=1e-5, atol=1e-5)
    assert made.config._attn_implementation == kernel == "sdpa"
    with plain(made, False):
        assert made.config._attn_implementation == kernel


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
        student = model(folder)
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
        losses[format_] = loop.fit(model(folder), HEAD, PLAN, taught(rows, rows.only([])), where).final_loss
    assert losses["bf16"] is not None
    assert losses["bf16"] == pytest.approx(losses["no"], rel=0.05)
    assert losses["bf16"] != losses["no"]
