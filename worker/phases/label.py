"""The teacher, fitted on the labelled rows if asked; the student it is to teach; what it says of every training row, asked once.

teacher/ teacher-1/ …   transformers folders        initial/               the student before training
augmented/train.jsonl   rows that were made         labelled/labels.json   {"members": [what is cached where], "influence": […]}
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from app.domain.errors import InvalidRequest
from app.domain.spec import Member as MemberSpec
from app.domain.spec import Source as SourceSpec
from worker import capture
from worker.answers import cache as cached
from worker.answers.ensemble import Answers, Member
from worker.heads.base import Head
from worker.phases import augment, fitting, initial, runs, stages
from worker.phases.base import Context
from worker.precision import device_of, mixed_precision, model_dtype
from worker.rows import collate
from worker.run.faults import Failpoint, hit
from worker.signals import Wants

FITTED, MADE, AUGMENTED = 0.75, 0.8, 0.85  # shares of the phase by which these are done
HIDDEN_BYTES = 4 * 2**30  # of hidden states on disk, before the teacher is asked anew in every epoch
INFLUENCE_ROWS = 256


@dataclass(frozen=True)
class Teacher:
    """One teacher of the job: where it lies now, and what the spec says of it."""

    name: str
    folder: Path
    source: Path
    spec: SourceSpec


def teachers(context: Context) -> list[Teacher]:
    spec, request = context.spec.teacher, context.request
    found = [Teacher("teacher", context.output("teacher"), Path(request.teacher_dir), spec)]
    for n, (member, folder) in enumerate(zip(spec.ensemble, request.ensemble_dirs, strict=True), 1):
        found.append(Teacher(f"teacher-{n}", context.output(f"teacher-{n}"), Path(folder), member))
    return found


def run(context: Context) -> None:
    everyone, head = teachers(context), runs.head(context, "teacher")
    for n, teacher in enumerate(everyone):
        if not context.sealed(teacher.name):
            share = FITTED / len(everyone)
            fitting.fill(context, head, teacher.name, teacher.source, teacher.spec.finetune, n * share, (n + 1) * share)
            context.seal(teacher.name)
            hit(Failpoint.PHASE_SEALED)
    if context.spec.augmentation and not context.sealed("augmented"):
        augment.run(context, members(context, "prepared-train"), FITTED, MADE)
        context.seal("augmented")
    if context.spec.target is not None:
        return  # which student is to be taught is found in the training phase
    if not context.sealed("initial"):  # after augmentation: a trimmed vocabulary keeps the words of new rows too
        initial.make(context)
        context.seal("initial")
    context.advance("labelling", AUGMENTED)
    answer_once(context, head)


def members(context: Context, split: str = "train") -> list[Member]:
    """The teachers as they answer for a split; nothing of it cached yet. `prepared-train`: without the rows that were made."""
    head, device, spec = runs.head(context, "teacher"), device_of(context.request.device), context.spec.teacher
    found = []
    for teacher in teachers(context):
        records = runs.records(context, split.removeprefix("prepared-"))
        if split.startswith("prepared-"):
            with (context.output("prepared") / "train.jsonl").open(encoding="utf-8") as f:
                records = [json.loads(line) for line in f]
        rows = runs.encoded(records, teacher.folder, head)
        given = teacher.spec
        weight = given.weight if isinstance(given, MemberSpec) else spec.weight
        route = given.route if isinstance(given, MemberSpec) else spec.route
        routed = None if context.spec.data.route is None else torch.tensor([r.get("route") == route for r in records])
        wanted = spec.dtype if spec.dtype != "auto" else context.spec.compute.precision
        dtype = model_dtype(wanted, device)
        autocast = dtype == torch.float32 and mixed_precision(wanted, device) == "bf16"
        found.append(Member(teacher.folder, head, rows, device, dtype, spec.batch_size, autocast, weight, routed))
    if split == "train":
        _everybody_answered(context, found)
    return found


def _everybody_answered(context: Context, found: list[Member]) -> None:
    routes = [member.routed for member in found if member.routed is not None]
    if routes and not bool(torch.stack(routes).any(0).all()):
        raise InvalidRequest(
            f"Some rows have a '{context.spec.data.route}' that no teacher answers.",
            param="data.route",
            hint="Give every value that occurs to one teacher's 'route'.",
        )


def answer_once(context: Context, head: Head) -> None:
    """Fill labelled/: whatever the stages want of the teacher that is not in the cache yet is asked now."""
    wants, influence = _wants(context, head)
    described: dict[str, Any] = {"influence": influence, "members": []}
    used: set[str] = set()
    cache = Path(context.request.cache_dir)
    splits = ["train", *(["validation"] if _needs_validation(context, head) else [])]
    done, told = 0, cached.Labelled()
    everyone = {split: members(context, split) for split in splits}
    total = sum(len(m.rows) for ms in everyone.values() for m in ms)
    for split, found in everyone.items():
        for n, member in enumerate(found):
            kinds = _kinds(context, member, wants if n == 0 else Wants(wants.logits, wants.embedding, wants.scores), split)
            key = cached.fingerprint(f"{cached.model_digest(member.folder)}:{member.format}:{head.about}", member.rows.sequences())
            before = done

            def tell(rows: int, before: int = before) -> None:
                share = AUGMENTED + (1 - AUGMENTED) * (before + rows) / max(1, total)
                context.advance("labelling", share, examples_done=before + rows, examples_total=total, stage="labels")

            if kinds:
                told += cached.label(member.ask, key, sorted(kinds), member.rows.sequences(), cache, context.stop, tell)
                used.add(key)
            done += len(member.rows)
            described["members"].append({"split": split, "key": key, "kinds": sorted(kinds), "rows": len(member.rows)})
    cached.trim(cache, context.request.cache_bytes, used)
    described |= {"asked": told.asked, "reused": told.reused}
    if told.seconds_saved:
        described["seconds_saved"] = round(told.seconds_saved, 3)
    out = context.fresh("labelled")
    (out / "labels.json").write_text(json.dumps(described, sort_keys=True))
    context.seal("labelled")


def _wants(context: Context, head: Head) -> tuple[Wants, list[float]]:
    """What all stages want of the teacher, and its layers' influence when a map asks for it."""
    member = members(context, "validation")[0]
    influence: list[float] = []
    if stages.needs_influence(context):
        rows = member.rows.sequences()
        batch = collate(rows, range(min(INFLUENCE_ROWS, len(rows)))).to(member.device)
        layers = frozenset(range(head.shape(member.model).layers + 1))
        with torch.no_grad():
            states = head.forward(member.model, batch, Wants(hidden=layers)).hidden
        influence = [round(value, 6) for value in capture.influence(states, batch.attention_mask_BT)]
    student = runs.head(context, "student")
    theirs = head.shape(member.model, tuple(influence))
    wants = stages.asked_of_teacher(context, student.shape(student.load(context.output("initial"))), theirs)
    if wants.hidden or wants.qkv:
        _same_tokens(context)
    return wants, influence


def _same_tokens(context: Context) -> None:
    """Hidden states are compared token by token, so both must cut the rows alike."""
    vocabulary = json.loads((context.output("initial") / "plan.json").read_text()).get("vocabulary") or {}
    if not vocabulary.get("same_segmentation", True):
        raise InvalidRequest(
            "The student's trimmed vocabulary cuts the rows into other tokens than the teacher's: their states cannot be compared.",
            param="student.trim_vocabulary",
            hint="Leave min_count at 1, or use objectives on logits and vectors alone.",
        )


def _kinds(context: Context, member: Member, wants: Wants, split: str) -> set[str]:
    """What is kept on disk. A masked language model is asked anew every time, since its masks change; so are too many states."""
    if member.rows.masking is not None:
        return set()
    if split == "validation":
        return member.kinds_for(member.head.answers())
    kinds = member.kinds_for(wants)
    states = {kind for kind in kinds if kind[0] == "h"}
    tokens = sum(len(row) for row in member.rows.tokens)
    size = 2 * tokens * member.head.shape(member.model).hidden * len(states) if states else 0
    cache = context.spec.teacher.cache
    if size and (cache == "never" or (cache == "auto" and size > HIDDEN_BYTES)):
        return kinds - states
    return kinds


def _needs_validation(context: Context, head: Head) -> bool:
    """Rows without labels are judged by their likeness to the teacher."""
    if context.spec.task == "masked-lm":
        return False
    return not any(record["label"] is not None for record in runs.records(context, "validation"))


def answers(context: Context, split: str = "train") -> tuple[Answers, list[float]]:
    """The teacher as the training loop asks it: everything that was labelled is read from the cache."""
    described = json.loads((context.output("labelled") / "labels.json").read_text())
    cache = Path(context.request.cache_dir)
    found = members(context, split)
    told = [entry for entry in described["members"] if entry["split"] == split]
    for member, entry in zip(found, told, strict=True):
        if entry["kinds"]:
            member.kept, member.kinds = cached.Kept(cache / entry["key"], member.rows.sequences()), frozenset(entry["kinds"])
    return Answers(found), described["influence"]
