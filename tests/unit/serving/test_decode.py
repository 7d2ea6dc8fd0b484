"""Arrays of a forward become answers, each row by its own kind."""

import numpy as np
import pytest

from app.domain.errors import InferenceFailed
from app.serving.backends.base import Outputs, Tokens
from app.serving.decode import answers
from app.serving.work import Answer, Item, Kind

RNG = np.random.default_rng(0)


def item(kind: Kind, words: list[tuple[int, int, int]] | None = None) -> Item:
    made = Item("", kind, 0.0, 0.0)
    made.row = Tokens([0] * 4, False, None, None if words is None else np.array(words, np.int32).reshape(-1, 3))
    return made


def numbers(result: object) -> np.ndarray:
    assert isinstance(result, Answer), result
    return np.frombuffer(result.payload, "<f4")


def test_each_row_is_read_as_its_kind_asks() -> None:
    logits = (RNG.normal(size=(5, 3)) * 30).astype(np.float32)
    vectors = RNG.normal(size=(5, 2)).astype(np.float32)
    kinds: list[Kind] = ["scores", "independent", "embedding", "value", "scores"]
    found = answers([item(kind) for kind in kinds], Outputs(logits, vectors))
    exact = logits.astype(np.float64)
    for n in (0, 4):
        powers = np.exp(exact[n] - exact[n].max())
        np.testing.assert_allclose(numbers(found[n]), powers / powers.sum(), rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(numbers(found[1]), 1 / (1 + np.exp(-exact[1])), rtol=1e-5)
    np.testing.assert_array_equal(numbers(found[2]), vectors[2])
    np.testing.assert_array_equal(numbers(found[3]), logits[3])


def test_independent_probabilities_of_huge_logits_stay_finite() -> None:
    (found,) = answers([item("independent")], Outputs(np.array([[-1e30, 1e30, 0]], np.float32), None))
    assert numbers(found).tolist() == [0, 1, 0.5]


def test_words_are_labelled_at_their_first_sub_word_and_padding_is_not_read() -> None:
    logits = RNG.normal(size=(2, 6, 3)).astype(np.float32)
    logits[0, 4:] = np.nan  # padding of the shorter row
    found = answers([item("words", [(1, 0, 2), (3, 5, 9)]), item("words", [])], Outputs(logits, None))
    assert isinstance(found[0], Answer)
    read = np.frombuffer(found[0].payload, [("start", "<u4"), ("end", "<u4"), ("label", "<u4"), ("score", "<f4")])
    for word, place, start, end in zip(read, (1, 3), (0, 5), (2, 9), strict=True):
        powers = np.exp(logits[0, place].astype(np.float64))
        assert (word["start"], word["end"], word["label"]) == (start, end, powers.argmax())
        assert word["score"] == pytest.approx(powers.max() / powers.sum(), rel=1e-5)
    assert isinstance(found[1], Answer)
    assert found[1].payload == b""


@pytest.mark.parametrize("kind", ["scores", "independent", "value", "embedding"])
def test_a_row_that_is_not_finite_fails_alone(kind: Kind) -> None:
    array = np.array([[1, 2], [np.nan, 1], [3, np.inf]], np.float32)
    found = answers([item(kind)] * 3, Outputs(array, array))
    assert isinstance(found[0], Answer)
    assert all(isinstance(bad, InferenceFailed) and "NaN" in bad.message for bad in found[1:])


def test_a_word_that_is_not_finite_fails_its_text() -> None:
    logits = np.zeros((2, 4, 3), np.float32)
    logits[1, 2] = np.inf
    good, bad = answers([item("words", [(1, 0, 1)]), item("words", [(1, 0, 1), (2, 2, 3)])], Outputs(logits, None))
    assert isinstance(good, Answer)
    assert isinstance(bad, InferenceFailed)


def test_what_the_model_does_not_say_is_an_error() -> None:
    (found,) = answers([item("embedding")], Outputs(np.zeros((1, 2), np.float32), None))
    assert isinstance(found, InferenceFailed)
    for shape in ((2, 2), (1,), (1, 3, 2)):
        with pytest.raises(ValueError, match="came out"):
            answers([item("scores")], Outputs(np.zeros(shape, np.float32), None))
    with pytest.raises(ValueError, match="came out"):
        answers([item("words", [])], Outputs(np.zeros((1, 2), np.float32), None))
