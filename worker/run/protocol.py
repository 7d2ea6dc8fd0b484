"""What supervisor and child say to each other: one RunRequest and commands on stdin, events as JSON lines on a pipe.

Torch-free: both sides import it. The child's stdin stays open for as long as its supervisor lives; EOF means the
parent is gone and the child exits at once.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, SerializationInfo, TypeAdapter, field_serializer

EVENT_FD_VARIABLE = "RETORT_EVENT_FD"

# Below an attempt's work folder, where children of several workers train one search's trials (worker/search/claims.py).
RUNG = "trials/rung.json"  # what is to be trained now
HELPERS = "helpers"  # a folder for each helper
ENDED = "ended"  # in a helper's folder: it is gone
_SPOKEN = {"keys": "written out"}

# Environment of a child that computes. A thread that spins at a barrier beside a busy neighbour costs fivefold; and glibc gives
# every large tensor back to the kernel as soon as it is free, so that each step pays for zeroing the same pages again (5 % of it).
TUNING = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class RunRequest(_Message):
    """First line on stdin. Paths are the supervisor's, made from ids and digests."""

    job_id: str
    attempt: int
    spec: dict[str, Any]
    config_hash: str
    workdir: str  # runs/<job>/a<attempt>; only this attempt writes here
    previous: list[str] = []  # work folders of earlier attempts, newest first; read only
    cache_dir: str  # teacher outputs, shared between jobs, keyed by fingerprint
    files: dict[str, str]  # "training" | "validation" | "test" → path of the uploaded file
    formats: dict[str, str]  # the same keys → "jsonl" | "csv" | "parquet"
    teacher_dir: str
    ensemble_dirs: list[str] = []  # of teacher.ensemble, in its order
    student_dir: str | None = None  # for student.init = pretrained
    augmenter_dirs: list[str | None] = []  # of augmentation, in its order; null for a block that names no model
    device: str = "auto"
    threads: int = 0  # 0: let torch decide
    checkpoint_every_steps: int | None = None
    checkpoint_every_seconds: float = 300.0
    micro_batch_divisor: int = 1  # doubled by the supervisor after an out-of-memory exit
    stall_seconds: float = 900.0
    plugins_dir: str | None = None  # the operator's own plug-ins
    helps: str | None = None  # the work folder of the attempt whose trials this child trains; `workdir` lies in it
    lease_seconds: float = 60.0  # who claimed a trial and is silent for so long has lost it
    cache_bytes: int = 20 * 2**30  # teacher outputs and fitted teachers beyond this go, the least recently used first
    endpoint_keys: dict[str, SecretStr] = {}  # origin → API key, of the endpoints that the job names; masked when printed
    private_endpoints: list[str] = []  # origins that may lie in a private network

    def spoken(self) -> str:
        """The line for the child's stdin: the only place where keys are written out."""
        return self.model_dump_json(context=_SPOKEN)

    @field_serializer("endpoint_keys", when_used="json")
    def _masked(self, keys: dict[str, SecretStr], info: SerializationInfo) -> dict[str, str]:
        return {origin: key.get_secret_value() if info.context is _SPOKEN else str(key) for origin, key in keys.items()}


class Command(_Message):
    """Later lines on stdin."""

    command: Literal["cancel", "checkpoint_and_exit"]


class PhaseEvent(_Message):
    event: Literal["phase"] = "phase"
    name: str
    status: Literal["in_progress", "completed", "skipped", "failed"]
    percent: float = 0.0
    message: str = ""


class ProgressEvent(_Message):
    """At most once a second. `percent` is of the whole job, 0-100, and never falls within an attempt."""

    event: Literal["progress"] = "progress"
    percent: float
    phase: str
    phase_percent: float = 0.0
    stage: str | None = None
    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    examples_done: int = 0
    examples_total: int = 0
    examples_per_second: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    loss: float | None = None


class MetricsEvent(_Message):
    event: Literal["metrics"] = "metrics"
    stage: str
    step: int
    values: dict[str, float]


class CheckpointEvent(_Message):
    event: Literal["checkpoint"] = "checkpoint"
    stage: str
    step: int
    metrics: dict[str, float] = {}


class LogEvent(_Message):
    event: Literal["log"] = "log"
    level: Literal["info", "warning", "error"] = "info"
    message: str


class WarningEvent(_Message):
    event: Literal["warning"] = "warning"
    code: str
    message: str


class TrialsEvent(_Message):
    """So many trials wait that other workers could train; 0: none any more."""

    event: Literal["trials"] = "trials"
    count: int


class EvaluationEvent(_Message):
    event: Literal["evaluation"] = "evaluation"
    summary: dict[str, Any]


class DoneEvent(_Message):
    """Last event of a run that succeeded; everything named lies under the work folder, with a manifest."""

    event: Literal["done"] = "done"
    model_dir: str  # relative to workdir; holds MANIFEST.json
    digest: str
    reports: list[str]  # files relative to workdir
    summary: dict[str, Any]  # the `report` block of the job's result (api.md)
    params: int
    usage: dict[str, Any] = {}
    provenance: dict[str, Any] = {}


class FailedEvent(_Message):
    event: Literal["failed"] = "failed"
    code: str
    message: str
    phase: str | None = None
    param: str | None = None
    hint: str | None = None
    retryable: bool = False
    details: list[dict[str, Any]] = []


Event = Annotated[
    PhaseEvent
    | ProgressEvent
    | MetricsEvent
    | CheckpointEvent
    | LogEvent
    | WarningEvent
    | TrialsEvent
    | EvaluationEvent
    | DoneEvent
    | FailedEvent,
    Field(discriminator="event"),
]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
