"""/v1/distillation: validate, create, look, steer."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from app.api import bodies, deps, examples
from app.api.auth import Caller, caller
from app.api.bodies import Body
from app.api.deps import Blobs, Config, IdempotencyKey, Page, Store
from app.domain.errors import InvalidRequest
from app.domain.repositories.idempotency import Answer
from app.domain.spec import JobSpec, Metadata
from app.domain.states import Phase, Status
from app.services import views
from app.services.jobs import JobService
from app.services.once import Outcome, Runner

router = APIRouter(prefix="/v1/distillation", tags=["distillation"])
Reader = Annotated[Caller, Depends(caller("jobs:read"))]
Writer = Annotated[Caller, Depends(caller("jobs:write"))]
Given = Annotated[dict[str, Any], Depends(bodies.read_object)]
_METADATA = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)


class JobPatch(Body):
    name: str | None = Field(default=None, min_length=1, max_length=128)
    metadata: Metadata | None = None
    priority: int | None = Field(default=None, ge=-100, le=100)


def reading(who: Reader, store: Store, blobs: Blobs, config: Config) -> JobService:
    return JobService(store, blobs, config, who.project_id, who.key_id)


def writing(who: Writer, store: Store, blobs: Blobs, config: Config) -> JobService:
    return JobService(store, blobs, config, who.project_id, who.key_id)


Reading = Annotated[JobService, Depends(reading)]
Writing = Annotated[JobService, Depends(writing)]

_VALID = {
    "object": "distillation.validation",
    "valid": True,
    "errors": [],
    "warnings": [],
    "estimate": examples.ESTIMATE,
    "resolved_spec": examples.RESOLVED,
    "alignment": examples.ALIGNMENT,
    "config_hash": f"sha256:{examples.DIGEST}",
}


@router.post(
    "/validate",
    summary="Check a job without starting it",
    description="Finds every fault that creating the job would find, fills in every default, estimates time and space. "
    "`alignment` has an entry for every objective that compares layers or maps widths: pairs [student layer, teacher layer], 0 "
    "the embeddings' output, and the projections that are trained beside the student, [student width, teacher width]. What is "
    "null is decided when the job starts, for the `reason` given; an objective whose models are not known yet has no entry.",
    openapi_extra=bodies.described(JobSpec, *examples.SPECS),
    responses=examples.answers(_VALID, "All errors and warnings", 200, 400),
)
def validate(service: Writing, given: Given) -> dict[str, Any]:
    return service.validate(given)


@router.post(
    "/jobs",
    status_code=201,
    summary="Create a job",
    description="Checked whole before it is stored; once stored it runs, whatever happens to this process or to Redis.",
    openapi_extra=bodies.described(JobSpec, *examples.SPECS),
    responses=examples.answers(examples.QUEUED, "Queued", 201, 400, 404, 422, 429),
)
def create(request: Request, service: Writing, given: Given, key: IdempotencyKey = None) -> JSONResponse:
    return _create(request, service, given, given, key)


def _create(
    request: Request, service: JobService, asked: dict[str, Any], spec: dict[str, Any], key: str | None, parent: str | None = None
) -> JSONResponse:
    runner = Runner(service.sessions, service.project_id, deps.once(request, key, asked))
    outcome = runner.earlier()
    return deps.created(outcome or _insert(runner, service, spec, parent))


def _insert(runner: Runner, service: JobService, spec: dict[str, Any], parent: str | None) -> Outcome:
    job = service.prepare(spec, parent)

    def act(session: Any) -> Answer:
        return Answer(201, service.insert(session, job), f"{views.JOBS}/{job.id}")

    return runner.run(act)


@router.get(
    "/jobs",
    summary="List jobs",
    description="Filter with `status`, `phase`, `model`, `name`, `created_after`, `created_before` and `metadata[key]=value`.",
    responses=examples.answers(examples.listing(examples.JOB), "One page", 200, 400),
)
def list_jobs(
    request: Request,
    service: Reading,
    page: Page,
    status: Status | None = None,
    phase: Phase | None = None,
    model: Annotated[str | None, Query(max_length=64, description="output.model_name of the jobs.")] = None,
    name: Annotated[str | None, Query(max_length=128)] = None,
    created_after: Annotated[float | None, Query(allow_inf_nan=False, description="Unix seconds.")] = None,
    created_before: Annotated[float | None, Query(allow_inf_nan=False, description="Unix seconds.")] = None,
) -> dict[str, Any]:
    filters: dict[str, Any] = {"model": model, "name": name, "created_after": created_after, "created_before": created_before}
    filters |= {"status": status.value if status else None, "phase": phase.value if phase else None}
    filters["metadata"] = _metadata(request)
    return deps.listed(service.page(page.limit, page.after, page.before, page.order, **filters), lambda job: job)


def _metadata(request: Request) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if matched := _METADATA.fullmatch(name):
            found[matched[1]] = value
        elif name.startswith("metadata"):
            raise InvalidRequest(f"'{name[:80]}' is no filter.", param=name[:80], hint="Write metadata[key]=value.")
    if len(found) > 16:
        raise InvalidRequest("At most 16 metadata filters are allowed.", param="metadata")
    return found


@router.get("/jobs/{job_id}", summary="One job", responses=examples.answers(examples.JOB, "The job", 200, 404))
def get_job(job_id: str, service: Reading) -> dict[str, Any]:
    return service.show(job_id)


@router.patch(
    "/jobs/{job_id}",
    summary="Change a job's name, metadata or priority",
    openapi_extra=bodies.described(JobPatch, {"priority": 10, "metadata": {"team": "support"}}),
    responses=examples.answers(examples.JOB, "The job", 200, 400, 404),
)
def patch_job(job_id: str, service: Writing, wanted: Annotated[JobPatch, Depends(bodies.body(JobPatch))]) -> dict[str, Any]:
    return service.update(job_id, wanted.name, wanted.metadata, wanted.priority)


@router.delete(
    "/jobs/{job_id}",
    summary="Forget an ended job",
    description="Models it made stay. 409 while it has not ended.",
    responses=examples.answers({"id": examples.JOB_ID, "object": "distillation.job", "deleted": True}, "Deleted", 200, 404, 409),
)
def delete_job(job_id: str, service: Writing) -> dict[str, Any]:
    service.delete(job_id)
    return views.deleted("distillation.job", job_id)


def _asked(job: dict[str, Any], under_way: Status) -> JSONResponse:
    """202 while a worker still has to act on it."""
    return JSONResponse(job, 202 if job["status"] == under_way.value else 200)


@router.post(
    "/jobs/{job_id}/cancel",
    summary="Cancel a job",
    description="202 while its worker stops it, which takes seconds; 200 when it is cancelled. Nothing of it is published.",
    responses=examples.answers({**examples.QUEUED, "status": "cancelled", "is_terminal": True}, "Cancelled", 200, 404, 409),
)
def cancel(job_id: str, service: Writing) -> JSONResponse:
    return _asked(service.cancel(job_id), Status.CANCELLING)


@router.post(
    "/jobs/{job_id}/pause",
    summary="Pause a job",
    description="202 while its worker writes a checkpoint; 200 when it is paused and the device is free.",
    responses=examples.answers({**examples.QUEUED, "status": "paused"}, "Paused", 200, 404, 409),
)
def pause(job_id: str, service: Writing) -> JSONResponse:
    return _asked(service.pause(job_id), Status.PAUSING)


@router.post(
    "/jobs/{job_id}/resume",
    summary="Resume a paused job, or a failed one whose error is retryable",
    description="It goes on from its last checkpoint.",
    responses=examples.answers(examples.QUEUED, "Queued", 200, 404, 409),
)
def resume(job_id: str, service: Writing) -> dict[str, Any]:
    return service.resume(job_id)


@router.post(
    "/jobs/{job_id}/clone",
    status_code=201,
    summary="Create a job like another one",
    description="The body is laid over what was submitted then (JSON merge patch: null removes a field).",
    openapi_extra={
        "requestBody": {
            "content": {"application/json": {"schema": {"type": "object"}, "examples": {"example": {"value": {"seed": 8}}}}}
        }
    },
    responses=examples.answers(examples.QUEUED, "Queued", 201, 400, 404, 422, 429),
)
def clone(job_id: str, request: Request, service: Writing, given: Given, key: IdempotencyKey = None) -> JSONResponse:
    return _create(request, service, given, service.clone_of(job_id, given), key, parent=job_id)


@router.get(
    "/jobs/{job_id}/spec",
    summary="What was submitted, and what it was resolved to",
    description="Posting `resolved` again makes the same job. `alignment`: as validating it told.",
    responses=examples.answers(
        {
            "object": "distillation.spec",
            "job_id": examples.JOB_ID,
            "submitted": examples.RESOLVED,
            "resolved": examples.RESOLVED,
            "alignment": examples.ALIGNMENT,
            "config_hash": f"sha256:{examples.DIGEST}",
        },
        "The specification",
        200,
        404,
    ),
)
def get_spec(job_id: str, service: Reading) -> dict[str, Any]:
    return service.spec(job_id)
