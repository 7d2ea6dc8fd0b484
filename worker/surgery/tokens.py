"""Fewer tokens in a tokenizer.json: which must stay for the rest to work, and the file rewritten for them.

A tokenizer.json numbers its tokens in the model's vocabulary, in the added tokens, in the post-processor that puts special
tokens around a text, and in the padding; all four are renumbered in the old order.
"""

import copy
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from app.domain.errors import UnsupportedMethod

_UNUSED = re.compile(r"\[unused\d+\]")  # places that BERT's vocabulary leaves free
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def used_by(described: dict[str, Any], used: set[int], always: set[int], *, all_characters: bool, common: int = 0) -> list[int]:
    """Old numbers of the tokens to keep, rising: `used`, `always`, added ones, single characters or bytes, `common` more.

    `all_characters`: every single character; otherwise those that the used tokens are made of. `common` are the first that
    are left: trainers of all three kinds number tokens by how often they occurred, or all but so.
    """
    names = token_names(described)
    model = described["model"]
    kept = (used | always | {token["id"] for token in described["added_tokens"]}) & set(names)
    prefix = model.get("continuing_subword_prefix") or "" if _kind(described) == "WordPiece" else ""
    own = {character for i in used if i in names for character in names[i].removeprefix(prefix)}
    everything = all_characters or _byte_level(described.get("pre_tokenizer"))
    for number, name in names.items():
        bare = name.removeprefix(prefix) if prefix else name
        if _BYTE.fullmatch(name) or (len(bare) == 1 and (everything or bare in own)):
            kept.add(number)
    left = [number for number, name in sorted(names.items()) if number not in kept and not _UNUSED.fullmatch(name)]
    kept.update(left[:common])
    if _kind(described) == "Unigram":
        scores = [score for _, score in model["vocab"]]
        kept.add(scores.index(min(scores)))
        if model.get("unk_id") is not None:
            kept.add(model["unk_id"])
    elif _kind(described) == "BPE":
        kept |= _between(model, [names[i] for i in kept])
    if model.get("unk_token") in (known := {name: i for i, name in names.items()}):
        kept.add(known[model["unk_token"]])
    return sorted(kept)


def fewer_tokens(described: dict[str, Any], kept: list[int]) -> dict[str, Any]:
    """The tokenizer.json with the tokens `kept` alone, numbered from 0 in their order."""
    made = copy.deepcopy(described)
    moved = {old: new for new, old in enumerate(kept)}
    model = made["model"]
    if _kind(described) == "Unigram":
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in moved]
        if model.get("unk_id") is not None:
            model["unk_id"] = moved[model["unk_id"]]
    else:
        model["vocab"] = {name: moved[number] for name, number in model["vocab"].items() if number in moved}
    if _kind(described) == "BPE":
        left = model["vocab"]
        pairs = ((merge, _pair(merge)) for merge in model["merges"])
        model["merges"] = [merge for merge, (a, b) in pairs if a in left and b in left and a + b in left]
    for token in made["added_tokens"]:
        token["id"] = moved[token["id"]]
    if made.get("padding"):
        made["padding"]["pad_id"] = moved[made["padding"]["pad_id"]]
    _renumber(made.get("post_processor"), moved)
    return made


def token_names(described: dict[str, Any]) -> dict[int, str]:
    """Number → token, added ones included."""
    vocabulary = described["model"]["vocab"]
    if _kind(described) == "Unigram":
        names = {number: entry[0] for number, entry in enumerate(vocabulary)}
    else:
        names = {number: name for name, number in vocabulary.items()}
    return names | {token["id"]: token["content"] for token in described["added_tokens"]}


def _kind(described: dict[str, Any]) -> str:
    model = described["model"]
    kind = str(model.get("type"))
    plain = kind in ("WordPiece", "Unigram") or (
        kind == "BPE"
        and not any(model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"))
    )
    if not plain:
        raise UnsupportedMethod(
            f"The vocabulary of a {kind} tokenizer of this kind cannot be trimmed.",
            param="student.trim_vocabulary",
            hint="WordPiece, Unigram and plain BPE can. Leave trim_vocabulary out.",
        )
    return kind


def _byte_level(part: Any) -> bool:
    """Whether texts become bytes first: there are 256 of them, and each must stay."""
    if isinstance(part, dict):
        return part.get("type") == "ByteLevel" or any(_byte_level(value) for value in part.values())
    return isinstance(part, list) and any(_byte_level(value) for value in part)


def _pair(merge: Any) -> tuple[str, str]:
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _between(model: dict[str, Any], tokens: Iterable[str]) -> set[int]:
    """The pieces that the merges go through on the way to `tokens`."""
    ranks = {_pair(merge): rank for rank, merge in enumerate(model["merges"])}
    found: set[str] = set()
    for token in tokens:
        parts = list(token)
        while len(parts) > 1:
            rank, at = min((ranks.get((a, b), len(ranks)), n) for n, (a, b) in enumerate(pairwise(parts)))
            if rank == len(ranks):
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
            found.add(parts[at])
    return {model["vocab"][piece] for piece in found}


def _renumber(part: Any, moved: dict[int, int]) -> None:
    """In place: `ids` of templates, and [token, id] of BertProcessing and RobertaProcessing."""
    if not isinstance(part, dict):
        return
    for special in (part.get("special_tokens") or {}).values():
        special["ids"] = [moved[number] for number in special["ids"]]
    for name in ("sep", "cls"):
        if isinstance(part.get(name), list):
            part[name] = [part[name][0], moved[part[name][1]]]
    for inner in part.get("processors") or []:
        _renumber(inner, moved)
