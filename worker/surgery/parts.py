"""The parts of a model that a job may keep, make anew or freeze, told apart by their parameters' names."""

import re
from collections.abc import Iterable
from typing import Literal

from torch import nn

from app.domain.errors import InvalidRequest

Part = Literal["embeddings", "attention", "ffn", "head"]
PARTS: tuple[Part, ...] = ("embeddings", "attention", "ffn", "head")

# BERT's family, DistilBERT, and what most other encoders of transformers call the same things; LayerNorms go with what they follow.
_PATTERNS: dict[Part, str] = {
    "embeddings": r"(^|\.)embeddings(_project)?\.",
    "attention": r"\.layers?\.\d+\.(attention|attn|attn_norm|sa_layer_norm)\.",
    "ffn": r"\.layers?\.\d+\.(intermediate|output|ffn|mlp|mlp_norm|output_layer_norm)\.",
    "head": r"^(classifier|pre_classifier|cls|lm_head|generator_\w+|vocab_\w+|score|head)\.|(^|\.)pooler\.",
}


def part_of(name: str) -> Part | None:
    """The part that a parameter belongs to; None for what is none of the four."""
    return next((part for part, pattern in _PATTERNS.items() if re.search(pattern, name)), None)


def frozen_patterns(model: nn.Module, parts: Iterable[Part]) -> list[str]:
    """Regular expressions (re.search) on the names of parameters that shall not train.

    Raises InvalidRequest for a part that this model does not have, and when nothing would be left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    patterns = [_PATTERNS[part] for part in dict.fromkeys(parts)]
    for part, pattern in zip(dict.fromkeys(parts), patterns, strict=True):
        if not any(re.search(pattern, name) for name in names):
            raise InvalidRequest(
                f"student.freeze names '{part}', but this student has no such part.",
                param="student.freeze",
                hint=f"It has {', '.join(p for p in PARTS if any(part_of(n) == p for n in names))}.",
            )
    if patterns and all(any(re.search(p, name) for p in patterns) for name in names):
        raise InvalidRequest(
            "student.freeze leaves nothing of the student to train.", param="student.freeze", hint="Freeze fewer parts."
        )
    return patterns
