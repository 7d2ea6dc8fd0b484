"""Carries out one import: fetch or find the folder, check and store it, register it. One at a time per worker."""

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from app.domain.db import Sessions, transaction
from app.domain.errors import DomainError
from app.domain.importing import Stored, register_checkpoint, store_checkpoint
from app.domain.modelfiles import local_folder
from app.domain.models import Import
from app.domain.repositories.imports import ImportLeases
from app.domain.storage import BlobStore
from app.settings import Settings
from worker import fetcher

log = logging.getLogger(__name__)


class ImportRun:
    """`owner` is unique to this claim and fences every write."""

    def __init__(self, claimed: Import, owner: str, settings: Settings, sessions: Sessions, blobs: BlobStore) -> None:
        self._import, self._owner = claimed, owner
        self._settings, self._sessions, self._blobs = settings, sessions, blobs
        self._stop, self._closed = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"import-{claimed.id}", daemon=True)

    def start(self) -> None:
        threading.Thread(target=self._renew, name=f"lease-{self._import.id}", daemon=True).start()
        self.thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        error: dict[str, object] | None = None
        stored: Stored | None = None
        commit: str | None = None
        try:
            stored, commit = self._store()
        except fetcher.Stopped:
            return self._write_down(lambda leases: leases.release(self._import.id, self._owner))
        except DomainError as refused:
            error = {"code": refused.code, "message": refused.message, "param": refused.param, "hint": refused.hint}
        except OSError as failed:
            reason = failed.strerror or type(failed).__name__
            error = {"code": "internal_error", "message": f"The worker could not store the model: {reason}.", "hint": "Try again."}
        except Exception:
            log.exception("import %s failed", self._import.id)
            error = {"code": "internal_error", "message": "The worker failed; its log says why.", "hint": "Try again."}
        finally:
            self._closed.set()
        if stored is None:
            failure = error or {}
            return self._write_down(lambda leases: leases.fail(self._import.id, self._owner, failure))
        kept = stored
        self._write_down(lambda leases: self._register(leases, kept, commit))

    def _store(self) -> tuple[Stored, str | None]:
        settings, model = self._settings, self._import.model
        if self._import.source == "local":
            return store_checkpoint(local_folder(settings.models_dir, model, "model"), self._blobs), None
        commit = fetcher.resolve(model, self._import.revision, settings)
        folder = fetcher.fetch(model, commit, settings, self._blobs, stop=self._stop.is_set)
        return store_checkpoint(folder, self._blobs), commit

    def _register(self, leases: ImportLeases, stored: Stored, commit: str | None) -> None:
        claimed = leases.lock(self._import.id, self._owner)
        if claimed is None:
            return
        provenance = {"source": claimed.source, "model": claimed.model, "revision": commit, "import_id": claimed.id}
        base = f"{claimed.model}@{commit}" if commit else claimed.model
        session = leases.session
        version = register_checkpoint(session, claimed.project_id, claimed.name, stored, base_model=base, provenance=provenance)
        result = {"model": f"{claimed.name}:{version.version}", "digest": stored.digest, "revision": commit}
        leases.succeed(claimed.id, self._owner, result)

    def _write_down(self, write: Callable[[ImportLeases], object]) -> None:
        """In one transaction, however long the database takes to answer."""
        while not self._stop.is_set():
            try:
                with transaction(self._sessions) as session:
                    write(ImportLeases(session))
                return
            except SQLAlchemyError as error:
                log.warning("import %s: its end waits for the database (%s)", self._import.id, type(error).__name__)
                time.sleep(1.0)

    def _renew(self) -> None:
        while not self._closed.wait(self._settings.heartbeat_seconds):
            try:
                with transaction(self._sessions) as session:
                    if not ImportLeases(session).renew(self._import.id, self._owner, self._settings.lease_seconds):
                        return self._stop.set()
            except SQLAlchemyError:
                continue
