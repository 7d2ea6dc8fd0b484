"""/v1/api_keys: made, listed, revoked. A key belongs to one project; the key itself is shown once."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from app.api import bodies, deps, examples
from app.api.auth import Caller, caller, doorman
from app.api.bodies import Body
from app.api.deps import Page, Store
from app.domain.db import reading, transaction
from app.domain.repositories.keys import Keys
from app.services import keys, views

router = APIRouter(prefix="/v1/api_keys", tags=["administration"])
Admin = Annotated[Caller, Depends(caller("admin"))]


class KeyCreate(Body):
    name: str = Field(min_length=1, max_length=128)
    scopes: list[Annotated[str, Field(max_length=40)]] | None = Field(
        default=None, max_length=32, description="Default: the scopes of the key that asks."
    )
    project_id: str | None = Field(default=None, max_length=40, description="Default: the project of the key that asks.")
    expires_at: float | None = Field(default=None, gt=0, lt=1e11, allow_inf_nan=False, description="Unix seconds.")


@router.post(
    "",
    status_code=201,
    summary="Create an API key",
    description="`key` is in this answer and nowhere else; stored is an HMAC of it.",
    openapi_extra=bodies.described(KeyCreate, {"name": "ci", "scopes": ["files:write", "jobs:write", "inference"]}),
    responses=examples.answers({**examples.KEY, "key": "rt_4fQ9sB2…"}, "Created", 201, 400, 404),
)
def create_key(
    request: Request, who: Admin, store: Store, wanted: Annotated[KeyCreate, Depends(bodies.body(KeyCreate))]
) -> JSONResponse:
    row, key = keys.create(
        store,
        doorman(request).pepper,
        who.identity,
        name=wanted.name,
        scopes=wanted.scopes,
        project_id=wanted.project_id,
        expires_at=wanted.expires_at,
    )
    headers = {"Location": f"/v1/api_keys/{row.id}", "Cache-Control": "no-store"}
    return JSONResponse(views.key_object(row, key), 201, headers)


@router.get("", summary="List API keys", responses=examples.answers(examples.listing(examples.KEY), "One page", 200, 400))
def list_keys(who: Admin, store: Store, page: Page) -> dict[str, Any]:
    with reading(store) as session:
        found = Keys(session).page(who.project_id, page.limit, page.after, page.before, page.order)
    return deps.listed(found, views.key_object)


@router.delete(
    "/{key_id}",
    summary="Revoke an API key",
    description="Closed at once here, within five seconds in every other process. Its row stays, because jobs name it.",
    responses=examples.answers({"id": examples.KEY_ID, "object": "api_key", "deleted": True}, "Revoked", 200, 404),
)
def revoke_key(key_id: str, request: Request, who: Admin, store: Store) -> dict[str, Any]:
    with transaction(store) as session:
        row = Keys(session).revoke(who.project_id, key_id)
    doorman(request).forget(row.id)
    return views.deleted("api_key", row.id)
