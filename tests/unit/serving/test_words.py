"""Words of a text, as token classifiers were taught them."""

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.serving.words import words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I moved to Paris.", "I|moved|to|Paris|."),
        ("  two\tlines\n of  text ", "two|lines|of|text"),
        ("O'Neil of AT&T, 19-year-old", "O'Neil|of|AT&T|,|19-year-old"),
        ("3,000 at 10:30 (U.S.)", "3,000|at|10:30|(|U.S|.|)"),
        ("London,Paris", "London|,|Paris"),
        ("wait... what?!", "wait|.|.|.|what|?|!"),
        ("我在北京。", "我|在|北|京|。"),
        ("iPhone手机 ok", "iPhone|手|机|ok"),
        ("हिन्दी में", "हिन्दी|में"),
        ("Ça va à Orléans", "Ça|va|à|Orléans"),
        ("costs 5€", "costs|5€"),
        ("😀 fine", "😀|fine"),
        (" \n ", ""),
        ("", ""),
    ],
)
def test_words_and_marks(text: str, expected: str) -> None:
    assert [text[start:end] for start, end in words(text)] == (expected.split("|") if expected else [])


@given(st.text(max_size=60))
def test_every_character_but_space_is_in_one_word(text: str) -> None:
    found = words(text)
    assert all(start < end for start, end in found)
    assert all(end <= start for (_, end), (start, _) in pairwise(found))
    assert "".join(text[start:end] for start, end in found) == "".join(text.split())
    assert not any(character.isspace() for start, end in found for character in text[start:end])


@pytest.mark.parametrize("unit", ["a", ".", "a.", "a..", "1,", "'", "我", "a-我"])
def test_no_text_takes_long(unit: str) -> None:
    started = time.perf_counter()
    words(unit * (100_000 // len(unit)))
    assert time.perf_counter() - started < 1
