"""More training rows than were given: made by the job's augmenters, sieved, left for the teacher to label.

augmented/   train.jsonl   what is kept: prepared records with "label": null and "source": {"augmenter", "parent"}
             augmentation.json   {"rows", "augmenters": [{"type", "written", "duplicates", "unsure", "relabelled", "kept",
                                 "usage"}]}; usage, of an endpoint: {"requests", "prompt_tokens", "completion_tokens"}
             journal-<n>.jsonl   what the n-th augmenter's models said, as it came; a resumed run asks for the rest only

Every row that an augmenter writes is compared with the training rows and the new rows before it (`worker/writing/similarity.py`);
what is left may be shown to the teacher, who has to be certain enough. An augmenter ends when it has `factor` rows for each
training row, or when it has no more to write. One that makes batches has nothing to do here. A run that was stopped or killed
goes through the same rows again, but what its models said is in the journals, of this attempt or an earlier one.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from app.domain import manifest
from worker import plugins
from worker.answers.ensemble import Member
from worker.augmenters.base import Record, Scene, Writer
from worker.phases.base import Context
from worker.phases.certainty import Certainty
from worker.precision import device_of, model_dtype
from worker.training.determinism import derived
from worker.writing.endpoint import Access
from worker.writing.journal import Journal
from worker.writing.similarity import Seen

CHUNK = 256  # rows sieved at once
BEAT = 30.0  # seconds between signs of life while rows are written


def run(context: Context, members: Sequence[Member], low: float, high: float) -> None:
    """`members`: the teachers, whose rows are the prepared training rows; `low` to `high`: the stretch of the labelling phase."""
    with (context.output("prepared") / "train.jsonl").open(encoding="utf-8") as f:
        records: list[Record] = [json.loads(line) for line in f]
    writers = _writers(context)
    out, told = context.output("augmented"), []
    out.mkdir(parents=True, exist_ok=True)
    (out / manifest.NAME).unlink(missing_ok=True)
    seen = Seen(
        [texts for record in records for texts in _texts(record, context.spec.task)],
        min((writer.params.max_similarity for _, writer in writers), default=1.0),
    )
    number = 1 + max((int(record["id"]) for record in records), default=-1)
    with (out / "train.jsonl").open("w", encoding="utf-8") as f:
        for place, (n, writer) in enumerate(writers):
            span = [low + (high - low) * part / len(writers) for part in (place, place + 1)]
            sieve = Sieve(context, writer, records, members, seen)
            for record in sieve.kept(_scene(context, members, n), span):
                f.write(json.dumps({"id": number, **record}, ensure_ascii=False) + "\n")
                number += 1
            told.append({"type": writer.name, **sieve.counts, **({"usage": usage} if (usage := writer.usage()) else {})})
            if not sieve.counts["kept"]:
                context.warn("nothing_augmented", _why(writer, sieve.counts))
    (out / "augmentation.json").write_text(json.dumps({"rows": sum(t["kept"] for t in told), "augmenters": told}, sort_keys=True))


def _writers(context: Context) -> list[tuple[int, Writer]]:
    """(place in the spec, augmenter) of those that make rows."""
    made = [(n, plugins.get("augmenters", block.type)(**block.params)) for n, block in enumerate(context.spec.augmentation)]
    return [(n, augmenter) for n, augmenter in made if augmenter.makes == "rows"]


def _scene(context: Context, members: Sequence[Member], n: int) -> Scene:
    device = device_of(context.request.device)
    folders = context.request.augmenter_dirs
    model = folders[n] if n < len(folders) else None
    journals = [folder / "augmented" / f"journal-{n}.jsonl" for folder in (context.workdir, *map(Path, context.request.previous))]
    return Scene(
        teachers=(members[0].folder, Path(context.request.teacher_dir)),
        head=members[0].head,
        device=device,
        dtype=model_dtype("auto", device),
        seed=derived(context.spec.seed, f"augmentation-{n}"),
        stop=context.stop,
        model=None if model is None else Path(model),
        access=Access(context.request.endpoint_keys, frozenset(context.request.private_endpoints)),
        journal=Journal(journals[0], journals[1:], context.request.config_hash),
    )


class Sieve:
    """Takes rows from an augmenter until enough of them have passed."""

    def __init__(self, context: Context, writer: Writer, records: Sequence[Record], members: Sequence[Member], seen: Seen) -> None:
        self._context, self._writer, self._seen = context, writer, seen
        self._records = records
        self._places = {record["id"]: n for n, record in enumerate(records)}
        self._wanted = max(1, round(writer.params.factor * len(records)))
        asks = writer.params.min_confidence is not None or writer.params.keep_label
        self._certainty = Certainty(members) if asks else None
        self.counts = Counter(written=0, duplicates=0, unsure=0, relabelled=0, kept=0)
        self._told_at = time.monotonic()

    def kept(self, scene: Scene, span: Sequence[float]) -> Iterator[Record]:
        rows = self._writer.write(self._records, replace(scene, stop=lambda: self._stop(span)))
        while (missing := self._wanted - self.counts["kept"]) > 0:
            self._context.stop()
            chunk = list(islice(rows, min(CHUNK, missing)))
            if not chunk:
                return
            self.counts["written"] += len(chunk)
            passed = self._certain([row for row in chunk if self._new(row)])
            self.counts["kept"] += len(passed)
            yield from passed
            self._tell(span)

    def _stop(self, span: Sequence[float]) -> None:
        """Asked by whoever writes. A slow endpoint is silent for long, and a silent run is taken for a dead one."""
        self._context.stop()
        if time.monotonic() - self._told_at > BEAT:
            self._tell(span)

    def _tell(self, span: Sequence[float]) -> None:
        self._told_at = time.monotonic()
        share = span[0] + (span[1] - span[0]) * self.counts["kept"] / self._wanted
        done = {"examples_done": self.counts["kept"], "examples_total": self._wanted}
        self._context.advance("labelling", share, stage=self._writer.name, **done)

    def _new(self, row: Record) -> bool:
        (texts,) = _texts(row, self._context.spec.task)
        if self._seen.near(texts, self._writer.params.max_similarity):
            self.counts["duplicates"] += 1
            return False
        self._seen.add(texts)
        return True

    def _certain(self, rows: list[Record]) -> list[Record]:
        if self._certainty is None or not rows:
            return rows
        least, passed = self._writer.params.min_confidence or 0.0, []
        parents = [self._places[row["source"]["parent"]] for row in rows]
        for row, parent, said in zip(rows, parents, self._certainty.of(rows, parents), strict=True):
            meant = self._records[parent]["label"]
            if said.confidence < least:
                self.counts["unsure"] += 1
            elif self._writer.params.keep_label and not _agree(said.label, meant):
                self.counts["relabelled"] += 1
            else:
                passed.append(row)
        return passed


def _agree(said: Any, meant: Any) -> bool:
    """A parent without label has nothing to disagree with; tags are compared as far as the teacher has read."""
    if isinstance(said, list) and meant is not None:
        meant = meant[: len(said)]
    return bool(meant is None or said == meant)


def _texts(record: Record, task: str) -> list[tuple[str, ...]]:
    """What tells a row from others: its text, both of a pair, the query; texts to embed each for itself."""
    if "words" in record:
        return [(" ".join(record["words"]),)]
    if "query" in record:
        return [(record["query"],)]
    both = [record["text"], *([record["text_b"]] if record.get("text_b") is not None else [])]
    return [(text,) for text in both] if task == "embedding" else [tuple(both)]


def _why(writer: Writer, counts: dict[str, int]) -> str:
    if not counts["written"]:
        return f"Augmentation '{writer.name}' wrote no rows: no text had a word to change, or the model wrote nothing."
    return (
        f"Augmentation '{writer.name}' kept none of {counts['written']} rows: {counts['duplicates']} were near-duplicates, of "
        f"{counts['unsure']} the teacher was unsure, to {counts['relabelled']} it gave another label."
    )
