"""A copy of a model that speaks fewer tokens: those that the job's rows use, common ones, and characters to spell the rest with.

Two thirds of a small encoder's bytes are its token table, of which a job uses a few thousand rows. The copy segments the
job's own texts exactly as before (held against the rows themselves), so hidden states still align token by token:

- WordPiece takes the longest piece that matches: what it took is still there, and nothing longer came.
- Unigram takes the path of the highest score: the best of all is the best of some. An unknown's score hangs on the lowest
  of the vocabulary, so that piece stays.
- BPE merges by rank: the merges that made the tokens in use, and so every piece between, stay.

Unseen words fall into smaller pieces; how many tokens become unknown is counted on held-out rows.
Source: vocabulary trimming, e.g. Load What You Need, arXiv 2010.05609. Shapes: V tokens.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from app.domain.errors import UnsupportedMethod
from worker.plugins import PluginParams
from worker.surgery.tokens import fewer_tokens, used_by

Text = str | list[str]  # a list: words that are told apart already
_CHUNK = 1024


class TrimVocabulary(PluginParams):
    min_count: int = Field(
        default=1, ge=1, description="Tokens that the rows use less often go too; above 1 some of the rows' own words are cut anew."
    )
    common: int = Field(
        default=4000,
        ge=0,
        description="So many further tokens stay, the vocabulary's first: those of everyday words, which texts to come will use.",
    )
    characters: Literal["all", "corpus"] = Field(
        default="all",
        description="Which single characters stay to spell unseen words with: all the vocabulary has, or those of the job's rows.",
    )


def texts_of(records: Iterable[dict[str, Any]]) -> list[Text]:
    """Every text of prepared records, whatever the task."""
    found: list[Text] = []
    for record in records:
        if "words" in record:
            found.append(list(record["words"]))
        found += [record[name] for name in ("text", "text_b", "query") if record.get(name) is not None]
        found += record.get("documents") or []
    return found


def trim(
    folder: Path,
    out: Path,
    load: Callable[[Path], PreTrainedModel],
    corpus: Sequence[Text],
    held_out: Sequence[Text],
    options: TrimVocabulary,
) -> dict[str, Any]:
    """Write the copy of the model in `folder` to `out`, its tokenizer too; returns sizes and what is lost.

    {"before", "after", "same_segmentation": whether the corpus falls into the same tokens, and where there are held-out
    texts "unknown_share", "unknown_share_before", "longer": growth of their token count}. Raises UnsupportedMethod for
    tokenizers that are none of WordPiece, Unigram and BPE.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not tokenizer.is_fast:
        raise _unsupported(type(tokenizer).__name__)
    whole = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    whole.no_padding()
    whole.no_truncation()
    counts: Counter[int] = Counter()
    for ids in encoded(whole, corpus):
        counts.update(ids)
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    always = {i for i in tokenizer.all_special_ids if i is not None}
    if tokenizer.pad_token_id is not None:  # RoBERTa counts positions from the padding's number, which must stay
        always |= set(range(tokenizer.pad_token_id + 1))
    used = {token for token, n in counts.items() if n >= options.min_count}
    kept = used_by(described, used, always, all_characters=options.characters == "all", common=options.common)
    smaller = Tokenizer.from_str(json.dumps(fewer_tokens(described, kept)))
    _save(tokenizer, smaller, out)
    before = _shrink(load(folder), kept, out)
    smaller.no_padding()
    smaller.no_truncation()
    told: dict[str, Any] = {"before": before, "after": len(kept)}
    told["same_segmentation"] = _same(whole, smaller, kept, corpus)
    if held_out:
        told |= _lost(whole, smaller, tokenizer.unk_token_id, kept, held_out)
    return told


def correspondence(ours: PreTrainedTokenizerFast, theirs: PreTrainedTokenizerFast) -> list[int]:
    """For every token of a trimmed tokenizer its number in the whole one: `logits[:, correspondence]` compares words with words."""
    vocabulary = theirs.get_vocab()
    names = ours.convert_ids_to_tokens(list(range(len(ours))))
    return [vocabulary[name] for name in names]


def encoded(tokenizer: Tokenizer, texts: Sequence[Text]) -> Iterator[list[int]]:
    """Token ids without special tokens, in the texts' order."""
    for start in range(0, len(texts), _CHUNK):
        chunk = texts[start : start + _CHUNK]
        split = bool(chunk) and isinstance(chunk[0], list)
        if any(isinstance(text, list) != split for text in chunk):
            raise ValueError("texts and lists of words do not mix")
        for found in tokenizer.encode_batch(chunk, is_pretokenized=split, add_special_tokens=False):
            yield found.ids


def _same(whole: Tokenizer, smaller: Tokenizer, kept: list[int], corpus: Sequence[Text]) -> bool:
    pairs = zip(encoded(whole, corpus), encoded(smaller, corpus), strict=True)
    return all(theirs == [kept[i] for i in ours] for theirs, ours in pairs)


def _lost(whole: Tokenizer, smaller: Tokenizer, unknown: int | None, kept: list[int], texts: Sequence[Text]) -> dict[str, float]:
    totals, unknowns = [0, 0], [0, 0]
    for n, (tokenizer, number) in enumerate(((whole, unknown), (smaller, None if unknown is None else kept.index(unknown)))):
        for ids in encoded(tokenizer, texts):
            totals[n] += len(ids)
            unknowns[n] += ids.count(number) if number is not None else 0
    return {
        "unknown_share": round(unknowns[1] / max(1, totals[1]), 6),
        "unknown_share_before": round(unknowns[0] / max(1, totals[0]), 6),
        "longer": round(totals[1] / max(1, totals[0]) - 1, 6),
    }


def _save(tokenizer: Any, smaller: Tokenizer, out: Path) -> None:
    """A tokenizer folder of the plain fast class: others rebuild what they know of their family instead of reading the file."""
    plain = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=smaller,
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        model_input_names=list(tokenizer.model_input_names),
        **tokenizer.special_tokens_map,
    )
    plain.save_pretrained(out)


@torch.no_grad()
def _shrink(model: PreTrainedModel, kept: list[int], out: Path) -> int:
    """Rows `kept` of every table of tokens, saved; returns how many there were. They move to the front, the rest is cut off."""
    rows = torch.tensor(kept)
    table: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    before = int(table.num_embeddings)
    table.weight[: len(rows)] = table.weight[rows]
    if head is not None:
        if head.weight is not table.weight:
            head.weight[: len(rows)] = head.weight[rows]
        if getattr(head, "bias", None) is not None:
            head.bias[: len(rows)] = head.bias[rows]
    model.resize_token_embeddings(len(rows), mean_resizing=False)
    moved = {old: new for new, old in enumerate(kept)}
    for name, value in model.config.to_dict().items():
        if re.search(r"_token_id$", name) and isinstance(value, int):
            setattr(model.config, name, moved.get(value))
    model.save_pretrained(out)
    return before


def _unsupported(kind: str) -> UnsupportedMethod:
    return UnsupportedMethod(
        f"The vocabulary of a {kind} tokenizer cannot be trimmed.",
        param="student.trim_vocabulary",
        hint="WordPiece, Unigram and BPE tokenizers with a tokenizer.json can. Leave trim_vocabulary out.",
    )
