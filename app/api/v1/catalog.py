"""/v1/catalog: every plug-in with its JSON Schema, as `make catalog` exported them: what a job may ask for."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from app.api import examples
from app.api.auth import Caller, caller
from app.domain import catalog
from app.domain.spec import JobSpec

router = APIRouter(prefix="/v1/catalog", tags=["distillation"])
Reader = Annotated[Caller, Depends(caller("jobs:read"))]

_EXAMPLE = {
    "object": "catalog",
    "job": {"title": "JobSpec", "type": "object"},
    "objectives": {"response": {"summary": "Soft targets of the teacher.", "schema": {"type": "object"}}},
}


@router.get("", summary="What a job may ask for", responses=examples.answers(_EXAMPLE, "All plug-ins, by kind and name"))
def get_catalog(who: Reader) -> dict[str, Any]:
    return {"object": "catalog", "job": JobSpec.model_json_schema(), **catalog.load()}
