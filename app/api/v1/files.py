"""/v1/files: data files in, their validation reports out. OpenAI's shapes, with our fields beside them."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response

from app.api import deps, examples, multipart
from app.api.auth import Caller, caller
from app.api.deps import Blobs, Config, IdempotencyKey, Page, Store
from app.api.downloads import download
from app.domain.errors import MissingParameter
from app.domain.repositories.idempotency import Answer
from app.services import views
from app.services.files import Checked, FileService
from app.services.once import Outcome, Replayed, Runner

router = APIRouter(prefix="/v1/files", tags=["files"])
Reader = Annotated[Caller, Depends(caller("files:read"))]
Writer = Annotated[Caller, Depends(caller("files:write"))]

_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "JSON Lines, CSV or Parquet."},
                        "purpose": {"type": "string", "enum": ["distill", "fine-tune", "eval", "user_data"]},
                    },
                },
                "example": {"file": "(the bytes of train.jsonl)", "purpose": "distill"},
            }
        },
    }
}


@router.post(
    "",
    status_code=201,
    summary="Upload a data file",
    description="Checked row by row. A file with faulty rows is kept with status `error`; its validation report names them.",
    openapi_extra=_FORM,
    responses=examples.answers(examples.FILE, "Stored and checked", 201, 400, 413, 415, 422),
)
async def upload(
    request: Request, who: Writer, store: Store, blobs: Blobs, config: Config, key: IdempotencyKey = None
) -> JSONResponse:
    service = FileService(store, blobs, who.project_id)
    with service.receiving(config.max_upload_bytes) as place:
        form = await multipart.receive(request, place, ("purpose",))
        if "purpose" not in form.fields:
            raise MissingParameter("'purpose' is missing.", param="purpose", hint="Use 'distill' for the rows of a job.")
        checked = await asyncio.to_thread(service.check, place, form.filename or "", form.fields["purpose"])
        same = {"filename": checked.filename, "purpose": checked.purpose, "sha256": checked.sha256}
        runner = Runner(store, who.project_id, deps.once(request, key, same))
        return deps.created(await asyncio.to_thread(_store, service, checked, runner))


def _store(service: FileService, checked: Checked, runner: Runner) -> Outcome:
    def show(file: Any) -> Answer:
        return Answer(201, views.file_object(file), f"/v1/files/{file.id}")

    try:
        return Outcome(show(service.store(checked, runner.remember(show))))
    except Replayed as earlier:
        return earlier.outcome


@router.get("", summary="List data files", responses=examples.answers(examples.listing(examples.FILE), "One page", 200, 400))
def list_files(
    who: Reader,
    store: Store,
    blobs: Blobs,
    page: Page,
    purpose: Annotated[str | None, Query(max_length=32, description="Only files of this purpose.")] = None,
) -> dict[str, Any]:
    found = FileService(store, blobs, who.project_id).page(page.limit, page.after, page.before, page.order, purpose)
    return deps.listed(found, views.file_object)


@router.get("/{file_id}", summary="One data file", responses=examples.answers(examples.FILE, "The file", 200, 404))
def get_file(file_id: str, who: Reader, store: Store, blobs: Blobs) -> dict[str, Any]:
    return views.file_object(FileService(store, blobs, who.project_id).get(file_id))


@router.delete(
    "/{file_id}",
    summary="Delete a data file",
    description="409 while a job that has not ended reads it.",
    responses=examples.answers({"id": examples.FILE_ID, "object": "file", "deleted": True}, "Deleted", 200, 404, 409),
)
def delete_file(file_id: str, who: Writer, store: Store, blobs: Blobs) -> dict[str, Any]:
    FileService(store, blobs, who.project_id).delete(file_id)
    return views.deleted("file", file_id)


@router.get(
    "/{file_id}/content",
    summary="The bytes of a data file",
    response_class=Response,
    responses=examples.answers(
        '{"text": "where is my card?", "label": "card_arrival"}\n', "Its bytes", 200, 404, 416, media="application/octet-stream"
    ),
)
def content(file_id: str, request: Request, who: Reader, store: Store, blobs: Blobs) -> Response:
    file, path = FileService(store, blobs, who.project_id).content(file_id)
    return download(request, path, file.sha256, file.filename)


@router.get(
    "/{file_id}/validation",
    summary="The validation report of a data file",
    responses=examples.answers(examples.REPORT, "What each row was found to be", 200, 404),
)
def validation(file_id: str, who: Reader, store: Store, blobs: Blobs) -> dict[str, Any]:
    return views.validation_object(FileService(store, blobs, who.project_id).get(file_id))
