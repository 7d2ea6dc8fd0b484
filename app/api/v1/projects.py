"""/v1/projects: the tenants. An admin key of one project may make others, and keys for them."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse
from pydantic import Field

from app.api import bodies, deps, examples
from app.api.auth import Caller, caller
from app.api.bodies import Body
from app.api.deps import Page, Store
from app.domain.db import reading, transaction
from app.domain.repositories.projects import Projects
from app.services import views

router = APIRouter(prefix="/v1/projects", tags=["administration"])
Admin = Annotated[Caller, Depends(caller("admin"))]


class ProjectCreate(Body):
    name: str = Field(min_length=1, max_length=128)


@router.post(
    "",
    status_code=201,
    summary="Create a project",
    openapi_extra=bodies.described(ProjectCreate, {"name": "search-team"}),
    responses=examples.answers(examples.PROJECT, "Created", 201, 400, 409),
)
def create_project(who: Admin, store: Store, wanted: Annotated[ProjectCreate, Depends(bodies.body(ProjectCreate))]) -> JSONResponse:
    with transaction(store) as session:
        made = Projects(session).add(wanted.name)
    return JSONResponse(views.project_object(made), 201, {"Location": f"/v1/projects/{made.id}"})


@router.get("", summary="List projects", responses=examples.answers(examples.listing(examples.PROJECT), "One page", 200, 400))
def list_projects(who: Admin, store: Store, page: Page) -> dict[str, Any]:
    with reading(store) as session:
        found = Projects(session).page(page.limit, page.after, page.before, page.order)
    return deps.listed(found, views.project_object)
