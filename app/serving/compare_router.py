"""POST /v1/compare. Thin: read, find models and rows, let both answer, say who is better."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from app.api.auth import Caller
from app.domain.errors import DomainError, MissingScope
from app.serving import compare, judging, openapi, requests
from app.serving.calls import GONE, InferenceCaller, answered, model_of
from app.serving.compare import CompareRequest, Contestant
from app.serving.inference import CallerGone
from app.serving.plane import Plane

router = APIRouter(tags=["inference"])

_BODY: dict[str, Any] = {
    "models": ["support-intents:1", "support-intents:2"],
    "file": "file-01JD3Z8W5Y6T7R8Q9P0N1M2K3H",
    "text": "text",
    "label": "label",
    "max_items": 1000,
}
_COMPARED = {
    "object": "comparison",
    "metric": "accuracy",
    "models": [
        {"model": "support-intents:1", "quality": 0.913, "ci95": [0.895, 0.93], "rows_per_second": 212.4},
        {"model": "support-intents:2", "quality": 0.928, "ci95": [0.911, 0.943], "rows_per_second": 405.1},
    ],
    "difference": {"value": 0.015, "ci95": [0.002, 0.028], "significant": True},
    "agreement": 0.957,
    "only_first_right": 0.012,
    "only_second_right": 0.027,
    "rows": 1000,
}
_DESCRIBED = (
    "Both models answer the labelled rows of an uploaded file, past the cache, in turn. `quality` is the task's main metric with a "
    "95 % interval; `difference` is second minus first, with a 95 % interval of the paired bootstrap over the rows: significant "
    "when it leaves out 0. `only_first_right` and `only_second_right` are shares of the rows, null where no answer is simply right "
    "or wrong. `rows_per_second` counts rows of the file through this endpoint's queues. Needs the scopes `inference` and "
    "`files:read`."
)
_CONTENT = {"schema": CompareRequest.model_json_schema(), "examples": {"two versions": {"value": _BODY}}}


@router.post(
    "/v1/compare",
    summary="Compare two models on labelled rows",
    description=_DESCRIBED,
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": _CONTENT}}},
    responses=openapi.example(_COMPARED, "Which is better, and by how much") | openapi.ERRORS | openapi.BUSY,
)
async def compare_models(request: Request, who: InferenceCaller) -> Response:
    plane: Plane = request.app.state.serving
    with plane.observed("compare"):
        _may_read_files(who)
        wanted = compare.read(await requests.read_object(request, plane.limits.max_body_bytes), plane.limits)
        first, second = [await _contestant(request, who.project_id, wanted, n) for n in (0, 1)]
        compare.check_models(wanted, first.card, second.card)
        state = request.app.state
        rows = await asyncio.to_thread(
            compare.examples, state.sessions, state.blobs, who.project_id, wanted, first.card, plane.limits
        )
        try:
            return JSONResponse(await compare.run(rows, (first, second)))
        except CallerGone:
            return Response(status_code=GONE)


def _may_read_files(who: Caller) -> None:
    if not who.may("files:read"):
        raise MissingScope(
            "This reads a file and needs the scope 'files:read' too.", hint="An admin makes keys with POST /v1/api_keys."
        )


async def _contestant(request: Request, project: str, wanted: CompareRequest, number: int) -> Contestant:
    plane: Plane = request.app.state.serving
    place = f"models[{number}]"
    try:
        version, model = await model_of(plane, project, wanted.models[number])
        kind = judging.kind_of(version.id, model.card)
    except DomainError as error:
        error.param = place
        raise

    async def ask(texts: Any, line: Any) -> Any:
        served = await plane.pool.get(version.digest, plane.limits.load_wait_seconds)  # it may have made room meanwhile
        answers, _ = await answered(request, served, project, kind, texts, cached=False, place=line)
        return answers

    return Contestant(version.id, model.card, kind, ask)
