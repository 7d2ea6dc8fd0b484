"""What a job says and leaves: events, their stream, metrics, artifacts, the report."""

import asyncio
from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response, StreamingResponse

from app.api import examples, sse
from app.api.auth import readmit
from app.api.deps import Blobs, Store
from app.api.downloads import download
from app.api.v1.distillation import Reader, Reading
from app.domain.errors import InvalidRequest
from app.services import views
from app.services.streams import Follower

router = APIRouter(prefix="/v1/distillation/jobs/{job_id}", tags=["distillation"])
Type = Literal[
    "snapshot", "status", "phase", "progress", "metrics", "checkpoint", "sample", "log", "warning", "evaluation", "attempt", "end"
]
Types = Annotated[
    str | None, Query(max_length=200, description="Only these types, separated by commas.", examples=["status,phase"])
]
_LARGEST = 2**31 - 1
_MEDIA = {"json": "application/json", "md": "text/markdown; charset=utf-8"}
_STREAM = (
    'retry: 3000\nevent: snapshot\ndata: {"id":"djob_…","status":"running"}\n\n'
    'id: 7\nevent: phase\ndata: {"name":"training","status":"in_progress","seq":7}\n\n'
)


def _types(given: str | None) -> list[str]:
    wanted = [name.strip() for name in (given or "").split(",") if name.strip()]
    for name in wanted:
        if name not in get_args(Type):
            raise InvalidRequest(f"'{name[:40]}' is no event type.", param="types", hint=f"Types: {', '.join(get_args(Type))}.")
    return wanted


@router.get(
    "/events",
    summary="List a job's events",
    description="Oldest first. The cursor of this list is `seq`, which counts 1, 2, 3 … per job without holes.",
    responses=examples.answers(
        {"object": "list", "data": [examples.EVENT], "first_id": 7, "last_id": 7, "has_more": False}, "One page", 200, 400, 404
    ),
)
def list_events(
    job_id: str,
    service: Reading,
    limit: Annotated[int, Query(ge=1, le=100)] = 100,
    after: Annotated[int, Query(ge=0, le=_LARGEST, description="`seq` of the event before this page.")] = 0,
    order: Literal["asc", "desc"] = "asc",
    types: Types = None,
) -> dict[str, Any]:
    events = service.events(job_id, after, limit + 1, _types(types) or None, order)
    data = [views.event_object(event) for event in events[:limit]]
    ends = {"first_id": data[0]["seq"], "last_id": data[-1]["seq"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, **ends, "has_more": len(events) > limit}


@router.get(
    "/events/stream",
    summary="Follow a job (server-sent events)",
    description="First a `snapshot` of the job, then what happens, last `end`. `Last-Event-ID` (or `after`) replays what was "
    "missed from the database instead of the snapshot. Closing the stream never touches the job.",
    response_class=StreamingResponse,
    responses=examples.answers(_STREAM, "The stream", 200, 400, 404, media="text/event-stream"),
)
async def stream_events(
    job_id: str,
    request: Request,
    who: Reader,
    store: Store,
    after: Annotated[int | None, Query(ge=0, le=_LARGEST)] = None,
    types: Types = None,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=20)] = None,
) -> StreamingResponse:
    seen = after
    if last_event_id:
        if not (last_event_id.isascii() and last_event_id.isdigit() and int(last_event_id) <= _LARGEST):
            raise InvalidRequest(
                "'Last-Event-ID' must be the number of an event.", param="Last-Event-ID", hint="Send the last `id:`."
            )
        seen = int(last_event_id)
    wanted = frozenset(_types(types))
    follower = Follower(store, who.project_id, job_id, seen or 0, snapshot=seen is None)
    first = await asyncio.to_thread(follower.look)
    return sse.stream(follower, first, wanted, lambda: readmit(request))


@router.get(
    "/metrics",
    summary="What was measured during training",
    description="In order of stage and step; the newest `limit` rows.",
    responses=examples.answers({"object": "list", "data": [examples.METRIC], "has_more": False}, "Rows", 200, 400, 404),
)
def metrics(
    job_id: str,
    service: Reading,
    stage: Annotated[str | None, Query(max_length=64, description="A training stage, `teacher` or `baseline`.")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> dict[str, Any]:
    rows = service.metrics(job_id, stage, limit + 1)
    kept = sorted(sorted(rows, key=lambda m: m.step)[-limit:], key=lambda m: (m.stage, m.step))
    return {"object": "list", "data": [views.metric_object(m) for m in kept], "has_more": len(rows) > limit}


@router.get(
    "/artifacts",
    summary="List the files of a succeeded job",
    responses=examples.answers({"object": "list", "data": [examples.ARTIFACT], "has_more": False}, "All, by name", 200, 404),
)
def list_artifacts(job_id: str, service: Reading) -> dict[str, Any]:
    return {"object": "list", "data": [views.artifact_object(a) for a in service.artifacts(job_id)], "has_more": False}


@router.get(
    "/artifacts/{name:path}",
    summary="Download a file of a job",
    description="Range requests are answered; the ETag is the file's sha256.",
    response_class=Response,
    responses=examples.answers('{"metric": "accuracy"}', "Its bytes", 200, 404, 416, media="application/octet-stream"),
)
def get_artifact(job_id: str, name: str, request: Request, service: Reading, blobs: Blobs) -> Response:
    found = service.artifact(job_id, name)
    return download(request, blobs.path(found.blob), found.sha256, found.name)


@router.get(
    "/report",
    summary="The report: teacher, student before, after and quantized",
    response_class=Response,
    responses=examples.answers(examples.JOB["result"]["report"], "The report, as JSON or Markdown", 200, 400, 404),
)
def report(job_id: str, request: Request, service: Reading, blobs: Blobs, format: Literal["json", "md"] = "json") -> Response:
    found = service.artifact(job_id, f"report.{format}")
    answer = download(request, blobs.path(found.blob), found.sha256, f"{job_id}-report.{format}", _MEDIA[format])
    del answer.headers["Content-Disposition"]
    return answer
