"""/v1/registry: models, immutable versions, aliases, imports, and the files of a version."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from app.api import bodies, deps, examples
from app.api.auth import Caller, caller
from app.api.bodies import Body
from app.api.deps import Blobs, IdempotencyKey, Page, Paging, Store
from app.api.downloads import download
from app.domain.errors import NotFound
from app.domain.repositories.idempotency import Answer
from app.services import views
from app.services.models import Cursor, ModelService
from app.services.once import Runner

router = APIRouter(prefix="/v1/registry", tags=["registry"])
Reader = Annotated[Caller, Depends(caller("models:read"))]
Writer = Annotated[Caller, Depends(caller("models:write"))]
Number = Annotated[int, Path(ge=1, le=2**31 - 1, description="Version number.")]


class ModelCreate(Body):
    name: str = Field(max_length=64)
    description: str = Field(default="", max_length=2000)


class ModelPatch(Body):
    description: str = Field(max_length=2000)


class AliasPut(Body):
    version: int = Field(ge=1, le=2**31 - 1)


class ImportCreate(Body):
    name: str = Field(max_length=64, description="Name in the registry.")
    source: Literal["hub", "local"]
    model: str = Field(
        min_length=1, max_length=200, description="`owner/name` on the hub, or a folder's name in RETORT_MODELS_DIR."
    )
    revision: str | None = Field(default=None, min_length=1, max_length=100, description="Of the hub: branch, tag or commit.")


def _cursor(page: Paging) -> Cursor:
    return Cursor(page.limit, page.after, page.before, page.order)


def _same(shown: dict[str, Any]) -> dict[str, Any]:
    return shown


# -- models ----------------------------------------------------------------------------------------------------------


@router.get("/models", summary="List models", responses=examples.answers(examples.listing(examples.MODEL), "One page", 200, 400))
def list_models(who: Reader, store: Store, page: Page) -> dict[str, Any]:
    return deps.listed(ModelService(store, who.project_id).page(_cursor(page)), _same)


@router.post(
    "/models",
    status_code=201,
    summary="Create a model",
    description="Jobs and imports create theirs by themselves; this one is for a description ahead of time.",
    openapi_extra=bodies.described(ModelCreate, {"name": "support-intents", "description": "Intents of support messages."}),
    responses=examples.answers(examples.MODEL, "Created", 201, 400, 409, 422),
)
def create_model(
    request: Request,
    who: Writer,
    store: Store,
    wanted: Annotated[ModelCreate, Depends(bodies.body(ModelCreate))],
    key: IdempotencyKey = None,
) -> JSONResponse:
    service = ModelService(store, who.project_id)
    runner = Runner(store, who.project_id, deps.once(request, key, wanted.model_dump()))

    def act(session: Any) -> Answer:
        return Answer(201, service.create(session, wanted.name, wanted.description), f"/v1/registry/models/{wanted.name}")

    return deps.created(runner.run(act))


@router.get("/models/{name}", summary="One model", responses=examples.answers(examples.MODEL, "The model", 200, 404))
def get_model(name: str, who: Reader, store: Store) -> dict[str, Any]:
    return ModelService(store, who.project_id).get(name)


@router.patch(
    "/models/{name}",
    summary="Describe a model",
    openapi_extra=bodies.described(ModelPatch, {"description": "Intents of support messages, English."}),
    responses=examples.answers(examples.MODEL, "The model", 200, 400, 404),
)
def patch_model(
    name: str, who: Writer, store: Store, wanted: Annotated[ModelPatch, Depends(bodies.body(ModelPatch))]
) -> dict[str, Any]:
    return ModelService(store, who.project_id).describe(name, wanted.description)


@router.delete(
    "/models/{name}",
    summary="Delete a model and its versions",
    description="409 while an alias points at one of them.",
    responses=examples.answers({"id": "support-intents", "object": "registry.model", "deleted": True}, "Deleted", 200, 404, 409),
)
def delete_model(name: str, who: Writer, store: Store) -> dict[str, Any]:
    ModelService(store, who.project_id).delete(name)
    return views.deleted("registry.model", name)


# -- versions --------------------------------------------------------------------------------------------------------


@router.get(
    "/models/{name}/versions",
    summary="List the versions of a model",
    responses=examples.answers(examples.listing(examples.VERSION), "One page", 200, 400, 404),
)
def list_versions(name: str, who: Reader, store: Store, page: Page) -> dict[str, Any]:
    return deps.listed(ModelService(store, who.project_id).versions(name, _cursor(page)), _same)


@router.get(
    "/models/{name}/versions/{number}",
    summary="One version",
    responses=examples.answers(examples.VERSION, "The version", 200, 400, 404),
)
def get_version(name: str, number: Number, who: Reader, store: Store) -> dict[str, Any]:
    return ModelService(store, who.project_id).version(name, number)


@router.delete(
    "/models/{name}/versions/{number}",
    summary="Delete a version",
    description="409 while an alias points at it. Its number is never given again.",
    responses=examples.answers(
        {"id": "support-intents:1", "object": "model.version", "deleted": True}, "Deleted", 200, 400, 404, 409
    ),
)
def delete_version(name: str, number: Number, who: Writer, store: Store) -> dict[str, Any]:
    ModelService(store, who.project_id).delete_version(name, number)
    return views.deleted("model.version", f"{name}:{number}")


@router.get(
    "/models/{name}/versions/{number}/artifacts",
    summary="List the files of a version",
    responses=examples.answers(
        {"object": "list", "data": [examples.ARTIFACT], "has_more": False}, "All files, by name", 200, 400, 404
    ),
)
def list_artifacts(name: str, number: Number, who: Reader, store: Store) -> dict[str, Any]:
    files = ModelService(store, who.project_id).files(name, number)
    url = f"/v1/registry/models/{name}/versions/{number}/artifacts"
    data = [
        {"object": "artifact", "name": f.name, "kind": f.kind, "bytes": f.bytes, "sha256": f.sha256, "url": f"{url}/{f.name}"}
        for f in files
    ]
    return {"object": "list", "data": data, "has_more": False}


@router.get(
    "/models/{name}/versions/{number}/artifacts/{file:path}",
    summary="Download a file of a version",
    description="Range requests are answered; the ETag is the file's sha256.",
    response_class=Response,
    responses=examples.answers('{"model_type": "bert"}', "Its bytes", 200, 400, 404, 416, media="application/octet-stream"),
)
def get_artifact(name: str, number: Number, file: str, request: Request, who: Reader, store: Store, blobs: Blobs) -> Response:
    found = next((f for f in ModelService(store, who.project_id).files(name, number) if f.name == file), None)
    if found is None:
        raise NotFound("artifact", file, hint=f"GET /v1/registry/models/{name}/versions/{number}/artifacts lists them.")
    return download(request, blobs.path(found.blob), found.sha256, found.name)


# -- aliases ---------------------------------------------------------------------------------------------------------


@router.put(
    "/models/{name}/aliases/{alias}",
    summary="Point an alias at a version",
    description="In one step: a caller sees the old version or the new one. Inference follows within a second.",
    openapi_extra=bodies.described(AliasPut, {"version": 1}),
    responses=examples.answers(examples.ALIAS, "The alias", 200, 400, 404),
)
def put_alias(
    name: str, alias: str, who: Writer, store: Store, wanted: Annotated[AliasPut, Depends(bodies.body(AliasPut))]
) -> dict[str, Any]:
    return ModelService(store, who.project_id).set_alias(name, alias, wanted.version)


@router.delete(
    "/models/{name}/aliases/{alias}",
    summary="Remove an alias",
    responses=examples.answers({"id": "production", "object": "registry.alias", "deleted": True}, "Removed", 200, 404),
)
def delete_alias(name: str, alias: str, who: Writer, store: Store) -> dict[str, Any]:
    ModelService(store, who.project_id).delete_alias(name, alias)
    return views.deleted("registry.alias", alias)


# -- imports ---------------------------------------------------------------------------------------------------------


@router.post(
    "/imports",
    status_code=201,
    summary="Bring a model into the registry",
    description="From the hub, or a local folder of the operator. A worker fetches and checks it: allow-listed files, no code.",
    openapi_extra=bodies.described(ImportCreate, {"name": "minilm", "source": "local", "model": "minilm"}),
    responses=examples.answers(examples.IMPORT, "Accepted; poll it until it succeeded or failed", 201, 400, 422),
)
def create_import(
    request: Request,
    who: Writer,
    store: Store,
    wanted: Annotated[ImportCreate, Depends(bodies.body(ImportCreate))],
    key: IdempotencyKey = None,
) -> JSONResponse:
    service = ModelService(store, who.project_id)
    runner = Runner(store, who.project_id, deps.once(request, key, wanted.model_dump()))

    def act(session: Any) -> Answer:
        made = service.start_import(session, wanted.name, wanted.source, wanted.model, wanted.revision)
        return Answer(201, made, f"/v1/registry/imports/{made['id']}")

    return deps.created(runner.run(act))


@router.get("/imports", summary="List imports", responses=examples.answers(examples.listing(examples.IMPORT), "One page", 200, 400))
def list_imports(who: Reader, store: Store, page: Page) -> dict[str, Any]:
    return deps.listed(ModelService(store, who.project_id).imports(_cursor(page)), views.import_object)


@router.get("/imports/{import_id}", summary="One import", responses=examples.answers(examples.IMPORT, "The import", 200, 404))
def get_import(import_id: str, who: Reader, store: Store) -> dict[str, Any]:
    return views.import_object(ModelService(store, who.project_id).get_import(import_id))
