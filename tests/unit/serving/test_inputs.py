"""Texts and pairs of a request, and what is said of others."""

from typing import Any

import pytest

from app.domain.errors import ContextLengthExceeded, DomainError, InvalidRequest, MissingParameter, UnknownParameter
from app.serving.admission import Limits
from app.serving.inputs import judged, match, texts

LIMITS = Limits(max_items=10, max_characters=100)


def test_texts_come_as_one_or_several_strings() -> None:
    assert texts("a", LIMITS) == ["a"]
    assert texts(["a", "b"], LIMITS) == ["a", "b"]


@pytest.mark.parametrize(
    ("value", "error", "param", "said"),
    [
        (None, MissingParameter, "input", "missing"),
        ([], InvalidRequest, "input", "empty list"),
        ("", InvalidRequest, "input", "empty string"),
        (["a", ""], InvalidRequest, "input[1]", "empty string"),
        (5, InvalidRequest, "input", "number"),
        ({"a": 1}, InvalidRequest, "input", "JSON object"),
        (["a", None], InvalidRequest, "input[1]", "null"),
        ([True], InvalidRequest, "input[0]", "boolean"),
        ([1, 2, 3], InvalidRequest, "input[0]", "token ids"),
        ([[1, 2], [3]], InvalidRequest, "input[0]", "token ids"),
        (["a"] * 11, InvalidRequest, "input", "10"),
        (["a", "b" * 101], ContextLengthExceeded, "input[1]", "100"),
    ],
)
def test_other_input_is_refused_with_its_place(value: Any, error: type[DomainError], param: str, said: str) -> None:
    with pytest.raises(error) as caught:
        texts(value, LIMITS)
    assert caught.value.param == param
    assert caught.value.status == 400
    assert said in caught.value.message


def test_an_item_may_be_an_object_and_a_pair() -> None:
    assert judged("a", LIMITS) == ["a"]
    assert judged({"text": "a"}, LIMITS) == ["a"]
    assert judged({"text": "a", "text_b": "b"}, LIMITS) == [("a", "b")]
    assert judged(["a", {"text": "b"}, {"text": "c", "text_b": "d"}], LIMITS) == ["a", "b", ("c", "d")]


@pytest.mark.parametrize(
    ("value", "error", "param", "said"),
    [
        (5, InvalidRequest, "input", "number"),
        ({}, MissingParameter, "input.text", "lacks"),
        ([{"text_b": "a"}], MissingParameter, "input[0].text", "lacks"),
        ([{"text": 5}], InvalidRequest, "input[0].text", "token ids"),
        ([{"text": "a", "text_b": ""}], InvalidRequest, "input[0].text_b", "empty string"),
        ([{"text": "a", "text_b": {}}], InvalidRequest, "input[0].text_b", "JSON object"),
        (["a", {"text": "a", "text_b": "b" * 101}], ContextLengthExceeded, "input[1].text_b", "100"),
        ([{"text": "a", "textb": "b"}], UnknownParameter, "input[0].textb", "textb"),
        ([["a", "b"]], InvalidRequest, "input[0]", "list"),
    ],
)
def test_a_pair_that_is_none_is_refused_with_its_place(value: Any, error: type[DomainError], param: str, said: str) -> None:
    with pytest.raises(error) as caught:
        judged(value, LIMITS)
    assert (caught.value.param, caught.value.status) == (param, 400)
    assert said in caught.value.message


def test_pairs_are_given_to_models_that_judge_pairs_and_to_no_other() -> None:
    match(["a", "b"], False, "m:1")
    match([("a", "b")], True, "m:1")
    with pytest.raises(MissingParameter, match="m:1") as alone:
        match([("a", "b"), "c"], True, "m:1")
    assert alone.value.param == "input[1].text_b"
    assert "text_b" in str(alone.value.hint)
    with pytest.raises(InvalidRequest, match="single texts") as pair:
        match([("a", "b")], False, "m:1")
    assert pair.value.param == "input.text_b"
