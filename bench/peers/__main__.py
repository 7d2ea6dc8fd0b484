"""`python -m bench.peers`: our job and a straightforward script with each peer library, one after the other, medians of both.

    --size cpu     2,000 training rows, 3 epochs       --size full    all rows, 10 epochs
    --sets stsb,banking77,trec6   --students whole,trimmed   --peers torchdistill,Trainer   --repeats 3   --rows 200

Both sides get the same rows, teacher, first weights of the student, epochs, batch size, length, learning rate and threads, and
judge the same validation rows after every epoch; one judge scores both on the test rows. Seed n differs between repeats, not
between sides. `all`: from starting the process to the student on disk, labelling and saving included. `loop`: the training
loop, or the trainer's train(), alone. Needs the extra `bench`; torchdistill is installed into a folder apart, if it can be.
Public data from ../shared/data, which is not part of this project.
"""

import argparse
import json
import statistics
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.banking77 import machine
from bench.engine.__main__ import minilm
from bench.peers.cases import SIZES, case
from bench.peers.quality import quality
from bench.peers.sides import PEERS, Peer, installed, ours, theirs

OUT = Path(__file__).resolve().parents[1] / "out" / "peers"
RESULTS = Path(__file__).resolve().parents[1] / "results" / "peers"
SETS = ("stsb", "banking77", "trec6")
HEAD = (
    "student | peer | data | rows | epochs | all s: ours | theirs | ratio | loop s: ours | theirs | ratio | quality: ours | theirs"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--students", default="whole,trimmed")
    parser.add_argument("--peers", default="", help="parts of their names; default: all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=None, help="fewer rows than the size has, for a try")
    parser.add_argument("--threads", type=int, default=1, help="0: the GPU if there is one")
    parser.add_argument("--packages", type=Path, default=Path(tempfile.gettempdir()) / "retort-bench-packages")
    wanted = parser.parse_args()
    size, label = SIZES[wanted.size], wanted.size
    if wanted.rows is not None:
        size, label = {**size, "rows": wanted.rows, "validation": min(wanted.rows, 500)}, f"{wanted.size}-{wanted.rows}"
    peers = [p for p in PEERS if not wanted.peers or any(part in p.name for part in wanted.peers.split(","))]
    left_out = {p.name: why for p in peers if (why := installed(p, wanted.packages)) is not None}
    peers = [p for p in peers if p.name not in left_out]
    folder, results = OUT / label, RESULTS / label
    results.mkdir(parents=True, exist_ok=True)
    for name in wanted.sets.split(","):
        students = wanted.students.split(",")
        given = case(name, size, students, minilm(), folder / name, wanted.threads)
        teacher = quality(given.teacher, given.data)
        for student in students:
            present = [p for p in peers if p.task == given.data.task and student in p.students]
            if not present:
                continue
            runs = interleaved(given, student, present, wanted.repeats, folder / name, wanted.threads, wanted.packages)
            told = {
                "data": name,
                "student": student,
                "rows": len(given.data.files["training"].read_text().splitlines()),
                "epochs": given.epochs,
                "threads": wanted.threads,
                "teacher": teacher,
                "untrained": quality(given.students[student], given.data) if given.data.task == "embedding" else None,
                "runs": runs,
                "left_out": left_out,
                "machine": machine() | {"peers": versions(wanted.packages)},
            }
            (results / f"{name}-{student}.json").write_text(json.dumps(told, indent=1) + "\n")
    print(table(results))
    for name, why in left_out.items():
        print(f"left out: {name}, which could not be installed: {why}")


def interleaved(
    given: Any, student: str, peers: list[Peer], repeats: int, folder: Path, threads: int, packages: Path
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Every peer's runs, each with the run of ours that came just before it."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {p.name: {"ours": [], "theirs": []} for p in peers}
    for n in range(repeats):
        for peer in peers:
            seed = 7 + n
            pair = {
                "ours": ours(given, student, seed, folder / "work", threads),
                "theirs": theirs(peer, given, student, seed, folder / "work-peer", threads, packages),
            }
            for side, run in pair.items():
                found[peer.name][side].append(run)
            said = ", ".join(f"{side} {r['all']} s (loop {r['train']} s) {r['quality']:.4f}" for side, r in pair.items())
            print(f"{given.data.name:10} {student:8} {peer.name:40} {said}", flush=True)
    return found


def table(folder: Path) -> str:
    lines = [f"| {HEAD} |", "|" + " --- |" * (HEAD.count("|") + 1)]
    for path in sorted(folder.glob("*-*.json")):
        told = json.loads(path.read_text())
        for peer, runs in told["runs"].items():
            cells = [told["student"], peer, told["data"], str(told["rows"]), str(told["epochs"])]
            for part, form in (("all", ".1f"), ("train", ".1f"), ("quality", ".4f")):
                us, them = (statistics.median(run[part] for run in runs[side]) for side in ("ours", "theirs"))
                cells += [format(us, form), format(them, form)]
                cells += [f"{us / them:.2f}"] if part != "quality" else []
            lines.append("| " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    (folder / "table.md").write_text(text)
    return text


def versions(packages: Path) -> dict[str, str]:
    found = {d.name: d.version for d in metadata.distributions(path=[str(packages)])}
    return found | {name: metadata.version(name) for name in ("sentence-transformers", "transformers", "datasets")}


if __name__ == "__main__":
    main()
