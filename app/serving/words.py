"""A text as words: token classifiers are taught on words split beforehand, and see a text the same way here.

Words end at white space; a punctuation mark is a word of its own unless it joins two parts ("O'Neil", "19-year-old",
"3,000", "AT&T"); an ideograph is a word of its own.
"""

import re
import unicodedata

_ASCII = [chr(c) for c in range(33, 127) if not chr(c).isalnum()]
_MARKS = _ASCII + [chr(c) for c in range(128, 0x10000) if unicodedata.category(chr(c))[0] == "P"]
_MARK = re.escape("".join(_MARKS))
_IDEOGRAPH = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f"  # what BERT's tokenizers set apart
_PLAIN = rf"[^\s{_MARK}{_IDEOGRAPH}]+"
_JOIN = r"(?:[.'\u2019\u2010\-_/&@+]|(?<=\d)[,:](?=\d))"
_WORD = re.compile(rf"[{_IDEOGRAPH}]|{_PLAIN}(?:{_JOIN}{_PLAIN})*|[{_MARK}]")


def words(text: str) -> list[tuple[int, int]]:
    """Where each word starts and ends."""
    return [match.span() for match in _WORD.finditer(text)]
