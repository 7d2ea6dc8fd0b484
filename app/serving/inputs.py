"""Texts and pairs of a request: each within its limits, or an error that names the place."""

from collections.abc import Callable
from typing import Any, TypeVar

from app.domain.errors import ContextLengthExceeded, InvalidRequest, MissingParameter, UnknownParameter
from app.serving.admission import Limits
from app.serving.backends.base import Text

_T = TypeVar("_T")


def texts(value: Any, limits: Limits) -> list[str]:
    """`input` as a list of non-empty strings."""
    if isinstance(value, str):
        return [text(value, "input", limits)]
    return each(value, "input", "a string or a list of strings", limits, text)


def judged(value: Any, limits: Limits) -> list[Text]:
    """`input` where an item may also be an object: {"text": …} is a text, {"text": …, "text_b": …} a pair."""
    if isinstance(value, str | dict):
        return [_text_or_pair(value, "input", limits)]
    return each(value, "input", "a string, an object with 'text', or a list of them", limits, _text_or_pair)


def each(value: Any, name: str, expected: str, limits: Limits, one: Callable[[Any, str, Limits], _T]) -> list[_T]:
    """The parameter `name` as a list that is neither empty nor too long."""
    if value is None:
        raise MissingParameter(f"'{name}' is missing.", param=name, hint=f"Give {expected}.")
    if not isinstance(value, list):
        raise InvalidRequest(f"'{name}' is a {_json_type(value)}; it must be {expected}.", param=name)
    if not value:
        raise InvalidRequest(f"'{name}' is an empty list; there is nothing to answer.", param=name)
    if len(value) > limits.max_items:
        raise InvalidRequest(
            f"'{name}' has {len(value)} texts; one request may have {limits.max_items}.",
            param=name,
            hint=f"Split the list into requests of at most {limits.max_items} texts.",
        )
    return [one(item, f"{name}[{n}]", limits) for n, item in enumerate(value)]


def text(value: Any, place: str, limits: Limits) -> str:
    if isinstance(value, str):
        if not value:
            raise InvalidRequest(f"'{place}' is an empty string; there is nothing to answer.", param=place)
        if len(value) > limits.max_characters:
            raise ContextLengthExceeded(
                f"'{place}' has {len(value)} characters; one text may have {limits.max_characters}.",
                param=place,
                hint="Cut the text; the model reads only its first max_length tokens anyway (GET /v1/models/{ref}).",
            )
        return value
    if isinstance(value, int | list) and not isinstance(value, bool):
        raise InvalidRequest(
            f"'{place}' is a {_json_type(value)}: token ids belong to one tokenizer, and this model has its own.",
            param=place,
            hint="Send the text itself. In LangChain: OpenAIEmbeddings(…, check_embedding_ctx_length=False).",
        )
    raise InvalidRequest(f"'{place}' is a {_json_type(value)}; it must be a string.", param=place)


def match(items: list[Text], pairs: bool, model: str) -> None:
    """A model that judges pairs is given pairs, another one is not."""
    for n, item in enumerate(items):
        if isinstance(item, str) is not pairs:
            continue
        place = f"input[{n}]" if len(items) > 1 else "input"
        if pairs:
            raise MissingParameter(
                f"'{place}' is one text; '{model}' judges pairs of texts.",
                param=f"{place}.text_b",
                hint='Send {"text": "…", "text_b": "…"} in its place.',
            )
        raise InvalidRequest(
            f"'{place}' is a pair; '{model}' judges single texts.", param=f"{place}.text_b", hint="Leave 'text_b' out."
        )


def _text_or_pair(value: Any, place: str, limits: Limits) -> Text:
    if not isinstance(value, dict):
        return text(value, place, limits)
    for name in value:
        if name not in ("text", "text_b"):
            raise UnknownParameter(
                f"'{place}' has '{name[:80]}'.",
                param=f"{place}.{name[:80]}",
                hint="Known: text, text_b (the second text of a pair).",
            )
    if value.get("text") is None:
        raise MissingParameter(f"'{place}' lacks 'text'.", param=f"{place}.text")
    first = text(value["text"], f"{place}.text", limits)
    return first if value.get("text_b") is None else (first, text(value["text_b"], f"{place}.text_b", limits))


def _json_type(value: Any) -> str:
    names = {dict: "JSON object", list: "list", bool: "boolean", int: "number", float: "number", type(None): "null", str: "string"}
    return names.get(type(value), type(value).__name__)
