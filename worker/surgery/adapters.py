"""Low-rank adapters in a student: put in, taken apart, and added to the weights again so that a plain model is left.

    LoRA   W x → W x + (α / r) B A x              A (r, in) drawn, B (out, r) zero: nothing changes before training
    DoRA   W' = m ⊙ (W + (α / r) B A) / ‖·‖       m, the length of every output's weights, trains too

Sources: LoRA arXiv 2106.09685, DoRA arXiv 2402.09353. The layers are peft's, put inside the model: its class, its input
table and hooks on its linear maps stay what they are; parameters of the adapter have `lora_` in their names.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from app.domain.errors import InvalidRequest
from app.domain.spec import Adapter
from worker import anatomy

_FIELD = "student.adapter.target_modules"


def attach(model: PreTrainedModel, spec: Adapter) -> list[str]:
    """Put an adapter beside every linear map that `spec` targets, in place; returns their names. Torch is seeded by the caller.

    Raises InvalidRequest for a target that is no linear map of this model.
    """
    names = _all(model) if spec.target_modules == "auto" else _named(model, spec.target_modules)
    shape: dict[str, Any] = {"r": spec.r, "lora_alpha": spec.alpha, "lora_dropout": spec.dropout}
    config = LoraConfig(target_modules=names, use_dora=spec.type == "dora", **shape)
    inject_adapter_in_model(config, model)
    return names


@torch.no_grad()
def merge(model: PreTrainedModel) -> PreTrainedModel:
    """Add the adapter to the weights, in place, and leave the plain model: its own keys, the same answers."""
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def save_apart(model: PreTrainedModel, folder: Path) -> None:
    """The adapter alone, before `merge`, as peft's own `PeftModel.from_pretrained(base, folder)` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    config: Any = model.peft_config["default"]
    tensors = get_peft_model_state_dict(model)
    save_file(
        {f"base_model.model.{name}": value.detach().cpu().contiguous() for name, value in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)  # peft keeps a set, whose order would change the file's digest
    config.save_pretrained(folder)


def _all(model: PreTrainedModel) -> list[str]:
    """Queries, values and the dense maps of every layer; of a family that is not known all linear maps of the body."""
    names = {id(module): name for name, module in _linear(model).items()}
    try:
        layers = anatomy.of(model).layers
    except KeyError:
        inside = {id(module) for module in model.base_model.modules()}
        found = [name for number, name in names.items() if number in inside]
    else:
        wanted = [m for x in layers for m in (x.query, x.value, x.attention_out, x.ffn_in, x.ffn_out)]
        found = [names[id(module)] for module in wanted]
    if not found:
        raise InvalidRequest(
            "This student has no linear map in its body that an adapter could go beside.",
            param=_FIELD,
            hint="Leave student.adapter out: a student without layers trains as a whole.",
        )
    return found


def _named(model: PreTrainedModel, targets: Sequence[str]) -> list[str]:
    linear = _linear(model)
    found: list[str] = []
    for target in targets:
        matching = [name for name in linear if name == target or name.endswith(f".{target}")]
        if not matching:
            short = sorted({name.rpartition(".")[2] for name in linear})
            raise InvalidRequest(
                f"student.adapter.target_modules: this student has no linear map '{target}'.",
                param=_FIELD,
                hint=f'Name some of {", ".join(short)}, or a longer end of their paths, or "auto".',
            )
        found += matching
    return list(dict.fromkeys(found))


def _linear(model: PreTrainedModel) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
