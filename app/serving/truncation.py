"""Which part of a text or pair a model reads when it is too long: what the tokenizers library's `longest_first` would keep.

The library's own truncation also builds what it cut off, for a pair every part of one with every part of the other; two
long texts would keep a core busy for minutes.
"""


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each stay so that both have at most `room`: the longer loses its end first, then both are halved."""
    if first + second <= room:
        return first, second
    short, long = sorted((first, second))
    long = max(short, room - short) if short <= room else short
    if short + long > room:
        short, long = room // 2, room - room // 2
    return (short, long) if first <= second else (long, short)


def kept(sequences: list[int | None], most: int) -> list[slice]:
    """The places to keep, given to which text (0, 1) each token belongs; None, a special token, always stays."""
    counts = sequences.count(0), sequences.count(1)
    stay = longest_first(*counts, max(0, most - (len(sequences) - sum(counts))))
    parts: list[slice] = []
    at = 0
    for text, (count, few) in enumerate(zip(counts, stay, strict=True)):
        if count:
            start = sequences.index(text)
            parts.append(slice(at, start + few))
            at = start + count
    return [*parts, slice(at, len(sequences))]
