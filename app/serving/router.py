"""POST /v1/classify, /v1/embeddings and /v1/rerank. Thin: read, resolve, answer, serialise."""

from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.domain.errors import InvalidRequest
from app.serving import heads, inputs, openapi, replies, requests
from app.serving.calls import GONE, InferenceCaller, answered, model_of, reply
from app.serving.inference import CallerGone
from app.serving.plane import Plane

router = APIRouter(tags=["inference"])


@router.post("/v1/classify", summary="Classify texts, pairs of texts or words", **openapi.CLASSIFY)
async def classify(request: Request, who: InferenceCaller) -> Response:
    plane: Plane = request.app.state.serving
    with plane.observed("classify"):
        wanted = requests.classify(await requests.read_object(request, plane.limits.max_body_bytes), plane.limits)
        version, model = await model_of(plane, who.project_id, wanted.model)
        kind = heads.needed("classify", version.id, model.card)
        inputs.match(wanted.texts, model.card.judges_pairs, version.id)
        try:
            answers, headers = await answered(request, model, who.project_id, kind, wanted.texts, wanted.cache)
        except CallerGone:
            return Response(status_code=GONE)
        if kind == "words":
            build = partial(replies.entities, version.id, model.card.labels, answers, wanted.texts)
        elif kind == "value":
            build = partial(replies.values, version.id, answers)
        else:
            build = partial(replies.classify, version.id, model.card.labels, answers, wanted.top_k)
        return await reply(len(answers), headers, build)


@router.post("/v1/embeddings", summary="Embed texts (OpenAI's shape)", **openapi.EMBEDDINGS)
async def embeddings(request: Request, who: InferenceCaller) -> Response:
    plane: Plane = request.app.state.serving
    with plane.observed("embeddings"):
        wanted = requests.embeddings(await requests.read_object(request, plane.limits.max_body_bytes), plane.limits)
        version, model = await model_of(plane, who.project_id, wanted.model)
        kind = heads.needed("embeddings", version.id, model.card)
        width = model.card.vector_width or 0
        if wanted.dimensions is not None and wanted.dimensions > width:
            raise InvalidRequest(f"'dimensions' is {wanted.dimensions}; '{version.id}' has {width}.", param="dimensions")
        try:
            answers, headers = await answered(request, model, who.project_id, kind, wanted.texts, wanted.cache)
        except CallerGone:
            return Response(status_code=GONE)
        if wanted.ignored:
            headers["x-ignored-params"] = requests.header_of(wanted.ignored)
        dimensions = wanted.dimensions if wanted.dimensions != width else None
        base64 = wanted.encoding == "base64"
        build = partial(replies.embeddings, version.id, answers, dimensions, model.card.normalize, base64)
        return await reply(len(answers), headers, build)


@router.post("/v1/rerank", summary="Rank documents for a query", **openapi.RERANK)
async def rerank(request: Request, who: InferenceCaller) -> Response:
    plane: Plane = request.app.state.serving
    with plane.observed("rerank"):
        wanted = requests.rerank(await requests.read_object(request, plane.limits.max_body_bytes), plane.limits)
        version, model = await model_of(plane, who.project_id, wanted.model)
        kind = heads.needed("rerank", version.id, model.card)
        judges = kind == "value"  # (query, document), else the vector of each
        texts = [(wanted.query, document) for document in wanted.documents] if judges else [wanted.query, *wanted.documents]

        def place(index: int) -> str:
            document = index if judges else index - 1
            return f"documents[{document}]" if document >= 0 else "query"

        try:
            answers, headers = await answered(request, model, who.project_id, kind, texts, wanted.cache, place)
        except CallerGone:
            return Response(status_code=GONE)
        documents = wanted.documents if wanted.return_documents else None
        return await reply(len(answers), headers, partial(replies.rerank, version.id, answers, judges, wanted.top_n, documents))
