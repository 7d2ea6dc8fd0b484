"""The data sets of the engine's bench as files that a job reads, made from ../shared/data (public; not part of this project).

A cut to `rows` training rows is the same for every method and seed.
"""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
CLASSIFICATION = ("banking77", "clinc150", "sst2", "trec6", "ag_news", "thucnews_titles")
NAMES = (*CLASSIFICATION, "stsb", "vaswani_npl")


@dataclass(frozen=True)
class DataSet:
    name: str
    task: str
    files: dict[str, Path]  # training, validation, test
    columns: dict[str, Any] = field(default_factory=dict)  # of the spec's data block
    more: dict[str, Any] = field(default_factory=dict)  # of the spec itself
    chinese: bool = False
    teacher_epochs: int = 0  # of fitting the teacher on the training rows; 0: it is asked as it is


def prepare(name: str, folder: Path, rows: int | None, teacher: Path) -> DataSet:
    """Write the job's files into `folder`; `teacher` ranks candidates where the set has no documents per query."""
    folder.mkdir(parents=True, exist_ok=True)
    if name in CLASSIFICATION:
        return _classification(name, folder, rows)
    return _stsb(folder, rows) if name == "stsb" else _vaswani(folder, rows, teacher)


_SPLITS = {"training": "train", "validation": "dev", "test": "test"}
_LENGTHS = {"ag_news": 96, "thucnews_titles": 40}
_TEACHER_EPOCHS = {"banking77": 5, "clinc150": 4, "sst2": 3, "trec6": 5, "ag_news": 3, "thucnews_titles": 15}  # chosen beforehand


def _classification(name: str, folder: Path, rows: int | None) -> DataSet:
    limits = {"training": rows, "validation": None if rows is None else 500, "test": None}
    files = {}
    for role, split in _SPLITS.items():
        found = [{"text": r["text"], "label": r["label"]} for r in _read(SHARED / name / f"{split}.jsonl")]
        files[role] = _write(folder / f"{split}.jsonl", _cut(found, limits[role]))
    columns = {"max_length": _LENGTHS.get(name, 64)}
    return DataSet(
        name, "text-classification", files, columns, chinese=name == "thucnews_titles", teacher_epochs=_TEACHER_EPOCHS[name]
    )


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _cut(rows: list[dict[str, Any]], limit: int | None) -> list[dict[str, Any]]:
    """`limit` rows, every label as often as before, in file order."""
    if limit is None or limit >= len(rows):
        return rows
    chance, groups = random.Random(0), {}
    for n, row in enumerate(rows):
        groups.setdefault(row.get("label"), []).append(n)
    kept: list[int] = []
    for members in groups.values():
        kept += chance.sample(members, max(1, round(len(members) * limit / len(rows))))
    return [rows[n] for n in sorted(kept)]


def _stsb(folder: Path, rows: int | None) -> DataSet:
    """Sentences of the training pairs alone, without scores: the teacher is all there is to learn from. Scored pairs judge."""
    source = SHARED / "stsb" / "en"
    train = _read(source / "train.jsonl")
    sentences = list(dict.fromkeys(text for row in train for text in (row["sentence1"], row["sentence2"])))[:rows]
    files = {"training": _write(folder / "train.jsonl", [{"text": text} for text in sentences])}
    for role in ("validation", "test"):
        pairs = _read(source / f"{_SPLITS[role]}.jsonl")
        scored = [{"text": r["sentence1"], "text_b": r["sentence2"], "score": float(r["score"])} for r in pairs]
        files[role] = _write(folder / f"{role}.jsonl", scored)
    return DataSet("stsb", "embedding", files, {"max_length": 64, "text_b": "text_b", "label": "score"})


def _vaswani(folder: Path, rows: int | None, teacher: Path) -> DataSet:
    """Training queries are the first words of documents, each with documents near and far; test queries are the real ones.

    Candidates of a test query: the teacher's first 50, and every judged document.
    """
    source = SHARED / "vaswani_npl"
    corpus = {r["id"]: r["text"] for r in _read(source / "corpus.jsonl")}
    queries = {r["id"]: r["text"] for r in _read(source / "queries.jsonl")}
    relevant: dict[str, set[str]] = {}
    for line in (source / "qrels.tsv").read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        if float(grade) > 0:
            relevant.setdefault(query, set()).add(document)
    ids = list(corpus)
    documents_NE, chance = _embedded(teacher, [corpus[i] for i in ids], folder / "documents.npy"), random.Random(0)
    chosen = chance.sample(range(len(ids)), (rows or 4000) + 200)
    made = []
    for n in chosen:
        near = np.argsort(-(documents_NE @ documents_NE[n]))[:12].tolist()
        members = list(dict.fromkeys([n, *chance.sample(near[1:], 4), *chance.sample(range(len(ids)), 3)]))
        chance.shuffle(members)
        made.append({"query": " ".join(corpus[ids[n]].split()[:9]), "documents": [corpus[ids[m]] for m in members]})
    queries_QE = _embedded(teacher, list(queries.values()), folder / "queries.npy")
    judged = []
    for (query, words), vector_E in zip(queries.items(), queries_QE, strict=True):
        first = [ids[n] for n in np.argsort(-(documents_NE @ vector_E))[:50]]
        members = list(dict.fromkeys([*first, *sorted(relevant.get(query, ()))]))
        grades = [float(m in relevant.get(query, ())) for m in members]
        judged.append({"query": words, "documents": [corpus[m] for m in members], "label": grades})
    files = {
        "training": _write(folder / "train.jsonl", made[200:]),
        "validation": _write(folder / "dev.jsonl", made[:200]),
        "test": _write(folder / "test.jsonl", judged),
    }
    scorers = {"teacher": "bi_encoder", "student": "bi_encoder"}
    return DataSet("vaswani_npl", "ranking", files, {"max_length": 96, "text": "query"}, {"ranking": scorers})


def _embedded(teacher: Path, texts: list[str], kept: Path) -> np.ndarray[Any, Any]:
    """Unit vectors of the teacher, cached beside the data."""
    if kept.is_file():
        return np.load(kept)
    import torch
    from transformers import AutoModel, AutoTokenizer

    from worker.losses.geometry import pooled

    model, tokenizer = AutoModel.from_pretrained(teacher), AutoTokenizer.from_pretrained(teacher)
    order, found = sorted(range(len(texts)), key=lambda n: len(texts[n])), np.zeros((len(texts), 384), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(texts), 64):
            which = order[start : start + 64]
            batch = tokenizer([texts[n] for n in which], truncation=True, max_length=96, padding=True, return_tensors="pt")
            vectors = pooled(model(**batch).last_hidden_state, batch["attention_mask"])
            found[which] = torch.nn.functional.normalize(vectors, dim=-1).numpy()
    np.save(kept, found)
    return found


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
