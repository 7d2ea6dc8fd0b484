"""Prompts that show a language model a few rows and ask for one more; and what of a record is shown and made.

    Category: lost card            where rows have one of several labels
    Text: where is my card
    Text: i lost my card
    Text:                          the model goes on here, to the end of the line

Pairs show `First:` and `Second:`, ranking `Document:` (the most relevant of a query's) and `Query:`; the prompt then ends with
the first of the two from a row of the job, and the model writes the second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worker.heads.base import About

GIVEN_CHARACTERS = 600  # of a text that is shown beside the one to write


@dataclass(frozen=True)
class Form:
    """The names under which a record's texts are shown: `given` is None where there is only one."""

    given: str | None
    wanted: str

    @classmethod
    def of(cls, about: About) -> "Form":
        if about.problem == "ranking":
            return cls("Document", "Query")
        return cls("First", "Second") if about.pairs and about.problem != "embedding" else cls(None, "Text")

    def texts(self, record: dict[str, Any]) -> tuple[str, str]:
        """What is given ("" where nothing is), and what is wanted."""
        if self.wanted == "Query":
            return _line(_most_relevant(record))[:GIVEN_CHARACTERS], _line(record["query"])
        if self.wanted == "Second":
            return _line(record["text"])[:GIVEN_CHARACTERS], _line(record["text_b"])
        return "", _line(" ".join(record["words"]) if "words" in record else record["text"])

    def fields(self, text: str, record: dict[str, Any]) -> dict[str, Any]:
        """The fields of a new record, made from the parent `record`."""
        if self.wanted == "Query":
            return {"query": text}
        if self.wanted == "Second":
            return {"text_b": text}
        return {"words": text.split()} if "words" in record else {"text": text}

    def prompt(self, shown: Sequence[dict[str, Any]], last: dict[str, Any], category: str | None, instruction: str) -> str:
        """`last` gives the first text of the pair that is to be completed."""
        lines = [instruction] if instruction else []
        lines += [f"Category: {_line(category)}"] if category is not None else []
        for record in shown:
            given, wanted = self.texts(record)
            lines += [f"{self.given}: {given}"] if self.given else []
            lines.append(f"{self.wanted}: {wanted}")
        lines += [f"{self.given}: {self.texts(last)[0]}"] if self.given else []
        return "\n".join([*lines, f"{self.wanted}:"])


def _line(text: str) -> str:
    return " ".join(text.split())


def _most_relevant(record: dict[str, Any]) -> str:
    documents: list[str] = record["documents"]
    if record["label"] is None:
        return documents[0]
    return documents[max(range(len(documents)), key=lambda n: (record["label"][n], -n))]
