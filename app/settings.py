"""Every setting of every process, read from the environment here and nowhere else."""

import os
import re
from functools import lru_cache
from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.domain import egress
from app.domain.errors import InvalidRequest


class Settings(BaseSettings):
    """Names in the environment: RETORT_<FIELD>, and the well-known DATABASE_URL, REDIS_URL, BLOB_URL."""

    model_config = SettingsConfigDict(
        env_prefix="RETORT_", frozen=True, populate_by_name=True, hide_input_in_errors=True, env_ignore_empty=True
    )

    data_dir: Path = Path(".retort")
    database_url: str = Field(default="", validation_alias="DATABASE_URL")
    redis_url: str = Field(default="redis://127.0.0.1:6379/0", validation_alias="REDIS_URL")
    blob_url: str = Field(default="", validation_alias="BLOB_URL")
    models_dir: Path | None = None  # operator's folder of local models
    pepper: str = ""  # secret of the API-key HMAC; made and kept in data_dir when empty
    bootstrap_key: str = ""

    # the `retort` command as a client
    base_url: str = ""
    api_key: str = ""

    # control plane
    max_upload_bytes: int = 8 * 2**30
    max_body_bytes: int = 4 * 2**20
    requests_per_minute: int = 6000  # per API key
    max_queued_jobs: int = 1000  # per project

    # worker
    worker_slots: int = 1
    worker_device: str = "auto"
    lease_seconds: float = 60.0
    heartbeat_seconds: float = 10.0
    poll_seconds: float = 30.0
    checkpoint_seconds: float = 300.0
    checkpoint_steps: int | None = None
    stop_grace_seconds: float = 25.0
    threads: int = 0  # torch threads of a run child; 0: cores / slots
    teacher_cache_bytes: int = 20 * 2**30  # per project: teacher outputs and fitted teachers
    plugins_dir: Path | None = None  # operator's own plug-ins: objectives/, students/, … one file each
    catalog: Path | None = None  # what they may be asked for: `python -m worker.catalog_export --plugins DIR --out FILE`
    hub_endpoint: str | None = None
    hub_offline: bool = False
    hub_max_bytes: int = 64 * 2**30  # of one model
    sweep_after_seconds: float = 86400.0  # work folders of ended jobs, unreferenced artifacts
    fault: str = ""  # a failpoint of the chaos tests

    # endpoints that jobs name
    private_endpoints: list[str] = []  # origins that may lie in a private network: ["http://10.0.0.5:8000"]
    endpoint_keys: dict[str, SecretStr] = {}  # origin → API key: {"https://api.example.com": "…"}; only workers need it

    # data plane
    serve_memory_bytes: int = 4 * 2**30
    serve_cache_bytes: int = 256 * 2**20
    serve_queue_rows: int = 4096
    serve_deadline_seconds: float = 30.0
    serve_threads: int = 0  # forwards at a time; 0: one per core of the real quota
    serve_max_items: int = 2048  # texts of one request
    serve_max_characters: int = 100_000  # of one text

    @field_validator("private_endpoints")
    @classmethod
    def _origins(cls, value: list[str]) -> list[str]:
        return [_origin(url) for url in value]

    @field_validator("endpoint_keys")
    @classmethod
    def _keys(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for url, key in value.items():
            if not re.fullmatch(r"[!-~]+", key.get_secret_value()):  # whatever else would end up in an error about the header
                raise ValueError(f"the key of {url!r} is empty, or has spaces or letters outside ASCII")
        return {_origin(url): key for url, key in value.items()}

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{(self.data_dir / 'retort.db').resolve()}"

    @property
    def blob_root(self) -> Path:
        url = self.blob_url or str((self.data_dir / "blobs").resolve())
        path = url.removeprefix("file://")
        if "://" in path:
            raise ValueError(f"BLOB_URL={url!r}: only a folder (file:///…) is supported; mount shared storage there.")
        return Path(path)


def _origin(url: str) -> str:
    """As requests will be compared with; a path would look as if it narrowed what is allowed."""
    try:
        target = egress.parse(url, "an endpoint")
    except InvalidRequest as error:
        raise ValueError(f"{url!r}: {error.message} {error.hint}") from None
    if target.path:
        raise ValueError(f"{url!r}: leave out the path, an endpoint is named by scheme, host and port: {target.origin!r}")
    return target.origin


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    return Settings()


def child_environment(settings: Settings) -> dict[str, str]:
    """What a worker started by `retort up` gets: our environment and this installation, without the keys it has no use for."""
    kept = {k: v for k, v in os.environ.items() if k not in ("RETORT_BOOTSTRAP_KEY", "RETORT_PEPPER", "RETORT_API_KEY")}
    kept |= {
        "RETORT_DATA_DIR": str(settings.data_dir.resolve()),
        "DATABASE_URL": settings.database,
        "REDIS_URL": settings.redis_url,
        "BLOB_URL": str(settings.blob_root),
    }
    return kept


def run_environment() -> dict[str, str]:
    """What a run child may know of the environment: where programs and drivers are, no keys, no addresses."""
    names = ("PATH", "LD_LIBRARY_PATH", "LANG", "TZ", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
    return {name: os.environ[name] for name in names if name in os.environ}
