"""A causal language model that goes on to the end of the line: sampled, seeded. Shapes: B prompts, T tokens."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from app.domain.errors import IncompatibleModels


class LineWriter:
    """Raises IncompatibleModels when the folder's model does not write."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype, architectures: tuple[str, ...]) -> None:
        config = json.loads((folder / "config.json").read_text())
        names = [str(name) for name in config.get("architectures") or []]
        if not any(name.endswith(architectures) for name in names):
            raise IncompatibleModels(
                f"{names[0] if names else 'The model'} is no causal language model: it writes no texts.",
                param="augmentation.model",
                hint=f"Name a model whose architecture ends in {architectures[0]}.",
            )
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="left")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=dtype
        )
        self.model.train(False)
        torch.nn.Module.to(self.model, device)
        self.device = device
        self.most = int(getattr(self.model.config, "max_position_embeddings", None) or 2**20)

    def fits(self, prompt: str, new_tokens: int) -> bool:
        return len(self.tokenizer(prompt)["input_ids"]) + new_tokens <= self.most

    @torch.no_grad()
    def lines(self, prompts: Sequence[str], *, seed: int, new_tokens: int, temperature: float, top_p: float) -> list[str]:
        """What comes before the end of the line, stripped; of a text cut short by `new_tokens` the whole words."""
        asked = self.tokenizer(list(prompts), padding=True, return_tensors="pt").to(self.device)
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=True,
            temperature=temperature,
            top_p=top_p,
            top_k=0,
            max_new_tokens=new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
            bos_token_id=self.tokenizer.bos_token_id,
        )
        before = asked["input_ids"].shape[1]
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            written_BT: Tensor = self.model.generate(  # type: ignore[operator]
                input_ids=asked["input_ids"],
                attention_mask=asked["attention_mask"],
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([_EndOfLine(self.tokenizer)]),
            )
        return [self._line(row.tolist()) for row in written_BT[:, before:].cpu()]

    def _line(self, ids: list[int]) -> str:
        ended = self.tokenizer.eos_token_id in ids
        text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        line, newline, _ = text.partition("\n")
        if not ended and not newline and " " in line.strip():
            line = line.rstrip().rpartition(" ")[0]  # the last word may be a part of one
        return line.strip()


class _EndOfLine(StoppingCriteria):
    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        last = self.tokenizer.batch_decode(input_ids[:, -1:])
        return torch.tensor(["\n" in text for text in last], device=input_ids.device)
