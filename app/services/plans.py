"""From the body of a request to a plan: every fault found and named, models pinned, the cost estimated. Nothing is started."""

import copy
import re
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.domain import catalog, ids, model_checks, plan_checks, plan_maps, shape_checks
from app.domain.db import Session, Sessions, reading
from app.domain.errors import DomainError, IncompatibleModels, InvalidRequest, NotFound
from app.domain.model_checks import Models
from app.domain.modelfiles import vocabulary_digest
from app.domain.models import File
from app.domain.plan_checks import Planned
from app.domain.repositories.files import Files
from app.domain.repositories.workers import Workers
from app.domain.spec import JobSpec, Source, config_hash
from app.domain.storage import BlobStore
from app.services import endpoints, fitness, rowchecks, sources, specs
from app.services.estimate import Sizes, estimate

_ALIVE_SECONDS = 120.0


class Limits(sources.Places, Protocol):
    @property
    def max_queued_jobs(self) -> int: ...


@dataclass
class Plan:
    """What a request for a job comes to."""

    errors: list[DomainError] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)
    resolved: dict[str, Any] | None = None
    alignment: list[dict[str, Any]] | None = None
    estimate: dict[str, Any] | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    model_name: str = ""

    @property
    def config_hash(self) -> str | None:
        return config_hash(self.resolved) if self.resolved is not None else None


@dataclass
class _Cast:
    """The models of a job, as far as they were found. `ensemble` has one place for every member."""

    teacher: sources.Found | None
    ensemble: list[sources.Found | None]
    student: sources.Found | None
    augmenters: list[sources.Found | None]  # one place for every block; None for one that names no model

    @property
    def whole(self) -> bool:
        return self.teacher is not None and None not in self.ensemble


class Planner:
    def __init__(self, sessions: Sessions, blobs: BlobStore, limits: Limits, project_id: str) -> None:
        self.sessions, self.blobs, self.limits, self.project_id = sessions, blobs, limits, project_id

    def plan(self, body: dict[str, Any]) -> Plan:
        plan = Plan()
        spec, plan.errors = specs.parse(body)
        if spec is None:
            return plan
        full = _expanded(spec, plan)
        plan.model_name = _model_name(spec, plan)
        with reading(self.sessions) as session:
            files = self._files(spec, session, plan)
            cast = self._cast(spec, session, plan)
            device = self._device(spec, session)
        rows = rowchecks.check(files, spec)
        plan.errors += rows.errors
        plan.warnings += rows.warnings
        rows.labels = fitness.job_labels(cast.teacher.info if cast.teacher else None, spec, rows.labels)
        _check_models(spec, cast, rows, plan)
        _check_augmenters(spec, cast, plan)
        for n, block in enumerate(spec.augmentation):
            plan.errors += endpoints.check(block.params, f"augmentation[{n}]", self.limits.private_endpoints)
        if full is not None:
            _check_plan(spec, full, rows, cast, plan)
        if plan.errors or full is None or not cast.whole:
            return plan
        plan.resolved = _pinned(full, cast)
        plan.estimate = self._estimate(full, rows, cast, device, plan)
        described = {role: _described(file, rows.usable[role]) for role, file in files.items()}
        plan.inputs = {
            "files": described,
            "teacher": cast.teacher.inputs if cast.teacher else None,
            "student": cast.student.inputs if cast.student else None,
            "alignment": plan.alignment,
        }
        if cast.ensemble:
            plan.inputs["ensemble"] = [found.inputs for found in cast.ensemble if found]
        if any(cast.augmenters):
            plan.inputs["augmenters"] = [found.inputs if found else None for found in cast.augmenters]
        return plan

    def _files(self, spec: JobSpec, session: Session, plan: Plan) -> dict[str, File]:
        found: dict[str, File] = {}
        files = Files(session, self.project_id)
        for role in rowchecks.ROLES:
            file_id = getattr(spec.data, f"{role}_file")
            if file_id is None:
                continue
            try:
                found[role] = files.get(file_id)
            except NotFound as error:
                error.param = f"data.{role}_file"
                plan.errors.append(error)
        return found

    def _cast(self, spec: JobSpec, session: Session, plan: Plan) -> _Cast:
        def find(role: str, at: str, block: dict[str, Any]) -> sources.Found | None:
            model, revision = block.get("model"), block.get("revision")
            if not model or not isinstance(model, str):
                return None  # the catalogue has said so
            source = str(block.get("source") or "registry")
            if source == endpoints.SOURCE:
                return None  # it stays where it is
            wanted = sources.Wanted(role, source, model, str(revision) if revision else None, at)
            try:
                return sources.find(wanted, session, self.project_id, self.blobs, self.limits)
            except DomainError as error:
                plan.errors.append(error)
                return None

        return _Cast(
            find("teacher", "teacher", spec.teacher.model_dump()),
            [find("teacher", f"teacher.ensemble[{n}]", m.model_dump()) for n, m in enumerate(spec.teacher.ensemble)],
            find("student", "student", spec.student.params),
            [find("augmentation", f"augmentation[{n}]", block.params) for n, block in enumerate(spec.augmentation)],
        )

    def _device(self, spec: JobSpec, session: Session) -> str:
        if spec.compute.device != "auto":
            return spec.compute.device
        workers = Workers(session).alive(_ALIVE_SECONDS)
        return "cuda" if any(worker.device.startswith("cuda") for worker in workers) else "cpu"

    def _estimate(self, full: JobSpec, rows: rowchecks.Rows, cast: _Cast, device: str, plan: Plan) -> dict[str, Any]:
        sizes = Sizes(
            rows.usable["training"], rows.usable.get("validation"), rows.usable.get("test", 0), rows.characters, rows.sequences
        )
        made = estimate(full, sizes, _infos(cast), device, self.blobs.free_bytes())
        if not made["fits"]:
            message = "By the estimate the job needs more space than the disk has."
            plan.warnings.append({"code": "does_not_fit", "message": message, "param": None})
        return made


def _expanded(spec: JobSpec, plan: Plan) -> JobSpec | None:
    try:
        return catalog.expand(spec)
    except DomainError as error:
        plan.errors.append(error)
        return None


def _check_models(spec: JobSpec, cast: _Cast, rows: rowchecks.Rows, plan: Plan) -> None:
    """Each model by itself: an encoder, of this task, for texts of this length."""
    teachers: list[tuple[str, Source, sources.Found | None]] = [("teacher", spec.teacher, cast.teacher)]
    for n, (member, found) in enumerate(zip(spec.teacher.ensemble, cast.ensemble, strict=True)):
        teachers.append((f"teacher.ensemble[{n}]", member, found))
    for at, asked, found in [*teachers, ("student", None, cast.student)]:
        if found is None:
            continue
        role = at.partition(".")[0]
        if found.info is None:
            plan.warnings.append(_checked_later(role, f"{at}.model"))
            continue
        try:
            fitness.is_encoder(found.info, role, at, spec)
            if asked is not None and asked.finetune is None:
                fitness.answers(found.info, at, spec, rows.labels)
            fitness.length(found.info, role, spec)
        except DomainError as error:
            plan.errors.append(error)


def _check_augmenters(spec: JobSpec, cast: _Cast, plan: Plan) -> None:
    """The model that a block names must do what the augmenter asks of it: write, or guess words."""
    for n, (block, found) in enumerate(zip(spec.augmentation, cast.augmenters, strict=True)):
        wanted = tuple(catalog.room("augmenters").get(block.type, {}).get("architectures", ()))
        if found is None or not wanted:
            continue
        param = f"augmentation[{n}].model"
        if found.info is None:
            plan.warnings.append(_checked_later("model", param))
        elif not any(name.endswith(wanted) for name in found.info.architectures):
            own = (found.info.architectures or [found.info.model_type])[0]
            message = f"'{block.type}' needs a model whose architecture ends in {wanted[0]}; this is a {own}."
            plan.errors.append(IncompatibleModels(message, param=param, hint="Name another model."))


def _checked_later(role: str, param: str) -> dict[str, Any]:
    return {
        "code": "checked_later",
        "message": f"The {role} is fetched from the hub and looked at when the job starts.",
        "param": param,
    }


def _check_plan(spec: JobSpec, full: JobSpec, rows: rowchecks.Rows, cast: _Cast, plan: Plan) -> None:
    """The models and the rows against what the stages ask of them."""
    planned = Planned(spec, full, rows.usable.get("training"), rows.labelled.get("training"), rows.labels)
    plan.errors += plan_checks.check(planned)
    plan.warnings += plan_checks.warnings(planned)
    models = _infos(cast)
    if model_checks.compares_tokens(planned, models):
        models = Models(models.teacher, models.student, _same_vocabulary(cast))
    plan.errors += model_checks.check(planned, models) + shape_checks.check(planned, models)
    plan.warnings += model_checks.warnings(planned, models)
    try:
        catalog.check_student(full, models.teacher)
    except DomainError as error:
        plan.errors.append(error)
    if not plan.errors:  # of a layer that is not there, more has been said already
        plan.alignment, faults = plan_maps.resolve(planned, models)
        plan.errors += faults


def _infos(cast: _Cast) -> Models:
    return Models(cast.teacher.info if cast.teacher else None, cast.student.info if cast.student else None)


def _same_vocabulary(cast: _Cast) -> bool | None:
    folders = [found.folder if found else None for found in (cast.teacher, cast.student)]
    digests = [vocabulary_digest(folder) if folder else None for folder in folders]
    return None if None in digests else digests[0] == digests[1]


def _model_name(spec: JobSpec, plan: Plan) -> str:
    """As asked for, else made of the job's name."""
    if spec.output.model_name is not None:
        return spec.output.model_name
    name = re.sub(r"[^a-z0-9._-]+", "-", spec.name.lower()).strip("-._")[:63]
    if not ids.MODEL_NAME.fullmatch(name):
        hint = "Set output.model_name: 1 to 63 of a-z, 0-9, '.', '_', '-'."
        plan.errors.append(InvalidRequest("No model name can be made of the job's name.", param="output.model_name", hint=hint))
    return name


def _pinned(full: JobSpec, cast: _Cast) -> dict[str, Any]:
    """The resolved spec, with registry models by version: posting it again means the same models."""
    resolved = copy.deepcopy(full.resolved())
    if cast.teacher is not None:
        resolved["teacher"]["model"] = cast.teacher.model
    for member, found in zip(resolved["teacher"]["ensemble"], cast.ensemble, strict=True):
        if found is not None:
            member["model"] = found.model
    if cast.student is not None:
        resolved["student"]["model"] = cast.student.model
    for block, found in zip(resolved["augmentation"], cast.augmenters, strict=True):
        if found is not None:
            block["model"] = found.model
    return resolved


def _described(file: File, rows: int) -> dict[str, Any]:
    return {"id": file.id, "format": file.format, "sha256": file.sha256, "rows": rows}
