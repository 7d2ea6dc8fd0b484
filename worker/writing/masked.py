"""A masked language model asked which words could stand in a place. Shapes: B places, T tokens, V vocabulary, W words of it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForMaskedLM, PreTrainedModel

from worker import anatomy
from worker.writing.lexicon import Lexicon, Sentence

PLACES = 64  # asked about in one pass
Place = tuple[Sentence, int]  # a word of a sentence


def has_head(folder: Path) -> bool:
    """Whether the folder's model guesses masked words, as it stands."""
    config = json.loads((folder / "config.json").read_text())
    return any(str(name).endswith("ForMaskedLM") for name in config.get("architectures") or [])


class Guesser:
    """Each word is masked alone, the whole rest of its text is read: one mask for all its pieces, since what comes is one token."""

    def __init__(self, folder: Path, tokenizer: Any, lexicon: Lexicon, device: torch.device, dtype: torch.dtype) -> None:
        self._model: PreTrainedModel = AutoModelForMaskedLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=dtype
        ).eval()
        torch.nn.Module.to(self._model, device)
        self._mask, self._pad, self._lexicon, self._device = tokenizer.mask_token_id, tokenizer.pad_token_id or 0, lexicon, device

    @torch.no_grad()
    def of(self, places: Sequence[Place], k: int, stop: Callable[[], None]) -> list[list[str]]:
        """For every place the k most probable words of the vocabulary, other than the one that is there."""
        found: list[list[str]] = [[] for _ in places]
        by_length = sorted(range(len(places)), key=lambda n: len(places[n][0].ids))
        for start in range(0, len(by_length), PLACES):
            stop()
            part = by_length[start : start + PLACES]
            scores_BW = self._scores([places[n] for n in part])[:, self._lexicon.ids_W]
            words = [places[n][0].word(places[n][1]) for n in part]
            for n, others in zip(part, self._lexicon.best(scores_BW, words, k), strict=True):
                found[n] = others
        return found

    def _scores(self, places: Sequence[Place]) -> Tensor:
        """(B, V) at the masks."""
        rows, at = [], []
        for sentence, n in places:
            first, *rest = sentence.words[n].at
            rows.append(torch.tensor([*sentence.ids[:first], self._mask, *sentence.ids[first + 1 + len(rest) :]]))
            at.append(first)
        ids_BT = pad_sequence(rows, batch_first=True, padding_value=self._pad).to(self._device)
        lengths_B = torch.tensor([len(row) for row in rows], device=self._device)
        mask_BT = (torch.arange(ids_BT.shape[1], device=self._device)[None, :] < lengths_B[:, None]).long()
        where = torch.arange(len(rows), device=self._device), torch.tensor(at, device=self._device)
        if self._model.config.model_type in anatomy.FAMILIES:
            states_BTD = self._model.base_model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
            return anatomy.mlm_logits(self._model, states_BTD[where]).float().cpu()
        scores: Tensor = self._model(input_ids=ids_BT, attention_mask=mask_BT).logits[where]
        return scores.float().cpu()
