"""What is kept of long texts and pairs is what the tokenizers library would keep."""

import time

import pytest
from tokenizers import Tokenizer

from app.serving.truncation import kept
from tests.fixtures.students import WORDS, write_student


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("student")
    write_student(folder / "m")
    made = Tokenizer.from_file(str(folder / "m" / "tokenizer.json"))
    made.no_padding()
    return made


@pytest.mark.parametrize("most", [3, 4, 5, 16, 17])
def test_a_pair_is_cut_as_the_library_cuts_it(tokenizer: Tokenizer, most: int) -> None:
    pairs = [(" ".join(WORDS[:n]), " ".join(WORDS[7 : 7 + m])) for n in range(1, 20) for m in (1, 2, 3, 8, 11, 18)]
    tokenizer.no_truncation()
    whole = tokenizer.encode_batch_fast(pairs)
    tokenizer.enable_truncation(most, strategy="longest_first")
    for encoding, expected in zip(whole, tokenizer.encode_batch(pairs), strict=True):
        parts = kept(encoding.sequence_ids, most)
        assert [x for part in parts for x in encoding.ids[part]] == expected.ids
        assert [x for part in parts for x in encoding.type_ids[part]] == expected.type_ids


def test_a_single_text_keeps_its_beginning_and_its_specials(tokenizer: Tokenizer) -> None:
    tokenizer.no_truncation()
    encoding = tokenizer.encode(" ".join(WORDS))
    tokenizer.enable_truncation(10)
    expected = tokenizer.encode(" ".join(WORDS)).ids
    assert [x for part in kept(encoding.sequence_ids, 10) for x in encoding.ids[part]] == expected
    assert kept([None, None], 10) == [slice(0, 2)]


def test_two_very_long_texts_are_cut_in_no_time(tokenizer: Tokenizer) -> None:
    tokenizer.no_truncation()
    encoding = tokenizer.encode_batch_fast([(" ".join(WORDS * 300), " ".join(WORDS * 250))])[0]
    started = time.perf_counter()
    parts = kept(encoding.sequence_ids, 16)
    assert time.perf_counter() - started < 0.5
    assert sum(len(encoding.ids[part]) for part in parts) == 16
