"""The catalogue of errors: each class carries code, HTTP status, whether a retry helps, and says what to do next."""

from collections.abc import Sequence
from typing import Any, ClassVar


class DomainError(Exception):
    """Something a caller can act on. `param` names the field, `hint` the next step, `details` the places."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    title: ClassVar[str] = "Internal error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        hint: str | None = None,
        details: Sequence[dict[str, Any]] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.hint = hint
        self.details = list(details)
        self.retry_after = retry_after


# --- 400: the request -------------------------------------------------------------------------------------------


class InvalidRequest(DomainError):
    code, status, type, title = "invalid_parameter", 400, "invalid_request_error", "A parameter is not valid"


class InvalidJSON(InvalidRequest):
    code, title = "invalid_json", "The body is not valid JSON"


class UnknownParameter(InvalidRequest):
    code, title = "unknown_parameter", "A parameter is not known"


class MissingParameter(InvalidRequest):
    code, title = "missing_parameter", "A parameter is missing"


class DatasetInvalid(InvalidRequest):
    code, title = "dataset_invalid", "A data file is not valid"


class FileNotReady(InvalidRequest):
    code, title = "file_not_ready", "A file is not ready"


class UnsupportedMethod(InvalidRequest):
    code, title = "unsupported_method", "This combination is not supported"


class ModelNotAllowed(InvalidRequest):
    code, title = "model_not_allowed", "This model may not be loaded"


class EndpointNotAllowed(InvalidRequest):
    code, title = "endpoint_not_allowed", "This address may not be asked"


class IncompatibleModels(InvalidRequest):
    code, title = "incompatible_models", "Teacher and student do not fit"


class DoesNotFit(InvalidRequest):
    code, title = "does_not_fit", "The job does not fit"


class ContextLengthExceeded(InvalidRequest):
    code, title = "context_length_exceeded", "A text is too long"


# --- 401, 403, 404, 409, 413, 415, 422, 429 ---------------------------------------------------------------------


class AuthenticationError(DomainError):
    code, status, type, title = "invalid_api_key", 401, "authentication_error", "The API key is not valid"


class MissingAPIKey(AuthenticationError):
    code, title = "missing_api_key", "An API key is needed"


class ExpiredAPIKey(AuthenticationError):
    code, title = "expired_api_key", "The API key has expired"


class MissingScope(DomainError):
    code, status, type, title = "missing_scope", 403, "permission_error", "The API key lacks a scope"


class NotFound(DomainError):
    """Also what a foreign project's object looks like. `code` is set per object: `job_not_found`, `file_not_found`, …"""

    code, status, type, title = "not_found", 404, "not_found_error", "Not found"

    def __init__(self, kind: str, ref: str, **kwargs: Any) -> None:
        super().__init__(f"No {kind.replace('_', ' ')} '{ref[:80]}' in this project.", **kwargs)
        self.code = f"{kind}_not_found"  # type: ignore[misc]


class MethodNotAllowed(DomainError):
    code, status, type, title = "method_not_allowed", 405, "invalid_request_error", "Method not allowed"


class Conflict(DomainError):
    code, status, type, title = "already_exists", 409, "conflict_error", "It exists already"


class InvalidStateTransition(Conflict):
    code, title = "invalid_state_transition", "Not possible in this state"


class InUse(Conflict):
    code, title = "in_use", "Something still uses it"


class IdempotencyInProgress(Conflict):
    code, title, retryable = "idempotency_in_progress", "The first request is still running", True


class PayloadTooLarge(DomainError):
    code, status, type, title = "file_too_large", 413, "invalid_request_error", "The body is too large"


class UnsupportedMediaType(DomainError):
    code, status, type, title = "unsupported_media_type", 415, "invalid_request_error", "Media type not supported"


class RangeNotSatisfiable(DomainError):
    code, status, type, title = "range_not_satisfiable", 416, "invalid_request_error", "Range not satisfiable"


class IdempotencyKeyReused(DomainError):
    code, status, type, title = "idempotency_key_reused", 422, "invalid_request_error", "Idempotency key used with another body"


class RateLimited(DomainError):
    code, status, type, title, retryable = "rate_limit_exceeded", 429, "rate_limit_error", "Too many requests", True


class QuotaExceeded(DomainError):
    code, status, type, title = "quota_exceeded", 429, "insufficient_quota", "Quota exceeded"


# --- 5xx --------------------------------------------------------------------------------------------------------


class InternalError(DomainError):
    pass


class Unavailable(DomainError):
    code, status, title, retryable = "unavailable", 503, "Temporarily unavailable", True


class Overloaded(Unavailable):
    code, title = "overloaded", "The endpoint is overloaded"


class ModelLoading(Unavailable):
    code, title = "model_loading", "The model is loading"


class DeadlineExceeded(Unavailable):
    code, title = "deadline_exceeded", "Not answered within the deadline"


class InferenceFailed(DomainError):
    code, title = "inference_failed", "The model could not answer"


class ArtifactCorrupt(DomainError):
    code, title = "artifact_corrupt", "A stored artifact does not match its manifest"


# --- how a job fails (status is what a synchronous caller would see) --------------------------------------------


class JobError(DomainError):
    """Ends an attempt; `retryable` says whether `resume` may help."""

    code, status, title = "internal_error", 500, "The job failed"


class LossDiverged(JobError):
    code, title = "loss_diverged", "The loss is not finite"


class SilentObjective(JobError):
    code, title = "objective_without_gradient", "A weighted objective gives no gradient"


class ObjectivesOutOfBalance(JobError):
    code, title = "objectives_out_of_balance", "One objective drowns another"


class ExportMismatch(JobError):
    code, title = "export_mismatch", "The exported model differs from the trained one"


class OutOfMemory(JobError):
    code, title, retryable = "out_of_memory", "Out of memory", True


class DiskFull(JobError):
    code, title, retryable = "disk_full", "No space left on the device", True


class WorkerLost(JobError):
    code, title, retryable = "worker_lost", "The worker was lost", True


class TimedOut(JobError):
    code, title, retryable = "timed_out", "The time budget is used up", True


class ModelDownloadFailed(JobError):
    code, title, retryable = "model_download_failed", "A model could not be fetched", True


class EndpointRefused(JobError):
    code, title, retryable = "endpoint_refused", "An endpoint refuses the requests", True


class EndpointUnavailable(JobError):
    code, title, retryable = "endpoint_unavailable", "An endpoint does not answer", True


class EndpointAnswerInvalid(JobError):
    code, title = "endpoint_answer_invalid", "An endpoint's answer cannot be understood"


class CacheMismatch(JobError):
    code, title = "cache_mismatch", "Cached teacher outputs do not belong to these rows"


class TargetMissed(JobError):
    code, title = "target_missed", "The student misses its target"
