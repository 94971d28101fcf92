"""Every operator setting, read once from the environment; the README's table is generated from this class."""

import os
from functools import lru_cache
from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.core.devices import DeviceList


class Settings(BaseSettings):
    """Settings of one process. Durations are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(env_prefix="NLFT_", extra="ignore", frozen=True)

    database_url: SecretStr = Field(
        SecretStr("postgresql://localhost/nlft"),
        validation_alias="DATABASE_URL",
        description="PostgreSQL 15 or newer. Unset under `nlft up`: the embedded server.",
    )
    broker_url: SecretStr = Field(
        SecretStr("redis://localhost:6379/0"),
        validation_alias="BROKER_URL",
        description="Redis 7 or Valkey. Unset under `nlft up`: the embedded server.",
    )
    storage_url: str = Field(
        "file:///var/lib/nlft/blobs",
        validation_alias="STORAGE_URL",
        description="`file:///dir` or `s3://bucket/prefix` (with AWS_*). Unset under `nlft up`: local.",
    )
    api_key_pepper: SecretStr = Field(
        SecretStr(""), description="Secret mixed into stored key hashes; required. Changing it revokes every key."
    )
    state_dir: Path = Field(
        Path("~/.local/state/nlft").expanduser(), description="Embedded servers, secrets and scratch space."
    )
    model_cache: Path = Field(Path("~/.cache/nlft/models").expanduser(), description="Imported base models.")
    postgres_bin: Path | None = Field(None, description="Folder with initdb and postgres to embed; default: a wheel's.")
    valkey_bin: Path | None = Field(None, description="valkey-server or redis-server to embed; default: a wheel's.")
    workspace_dir: Path | None = Field(
        None, description="Scratch space of running jobs; default `STATE_DIR/workspaces`."
    )
    endpoints_file: Path | None = Field(
        None, description="TOML file of the model endpoints that jobs may ask (docs/endpoints.md); default: none."
    )
    building_cache_seconds: float = Field(
        2_592_000.0, gt=0, description="How long unused stage results and endpoint answers are kept."
    )
    score_cache_bytes: int = Field(
        64 << 20, ge=0, description="Scores by base models that are kept for a project's later jobs; 0 keeps none."
    )

    max_request_bytes: int = Field(1 << 20, gt=0, description="Largest body of any route but uploads.")
    max_upload_bytes: int = Field(512 << 20, gt=0, description="Largest dataset file.")
    max_line_bytes: int = Field(2 << 20, gt=0, description="Longest dataset line.")
    max_queued_jobs: int = Field(1000, gt=0, description="Queued jobs a project may hold; more answer 429.")
    max_preview_examples: int = Field(64, gt=0, description="Rows that one saliency preview takes.")
    max_preview_tokens: int = Field(
        32_768, gt=0, description="Tokens that one saliency preview takes, all contexts of its rows together."
    )
    max_event_streams: int = Field(1000, gt=0, description="Event streams of a process at a time; more answer 429.")
    max_open_previews: int = Field(
        8, gt=0, description="Saliency previews of a project that may wait or run; more answer 429."
    )
    preview_wait_seconds: float = Field(
        60.0, gt=0, description="How long a saliency preview waits for a free worker before it answers 503."
    )
    body_idle_seconds: float = Field(30.0, gt=0, description="Longest silence inside a request body before 408.")
    database_pool_size: int = Field(
        20,
        gt=0,
        description="Most database connections of a process; the API keeps one for job reads, one for event streams.",
    )
    key_cache_seconds: float = Field(
        30.0, ge=0, le=30, description="How long a verified API key is believed; a revoked key may work that long."
    )
    serve_docs: bool = Field(False, description="Serve the interactive API documentation at /docs.")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")

    worker_slots: int = Field(1, gt=0, description="Jobs that one worker process runs at a time.")
    worker_devices: str = Field(
        "",
        description="Devices that jobs get: a count (`4`), a list (`0,2`), ids, or places on the CPU (`cpu:2`). A name "
        "that stands twice is shared by two jobs. Unset: each job takes one, whatever its trainer finds.",
    )
    max_gpus_per_job: int | None = Field(
        None, gt=0, description="Most devices a job may ask for; default: as many as NLFT_WORKER_DEVICES names."
    )
    worker_jobs_per_base: int = Field(
        1,
        gt=0,
        description="Most queued jobs of a project that one trainer runs together on one base model; 1: each "
        "by itself.",
    )
    worker_threads: int | None = Field(None, gt=0, description="CPU threads of one trainer; default: cores / slots.")
    worker_standby: bool = Field(
        True, description="Keep a trainer waiting that has imported everything, so that a job starts sooner."
    )
    worker_checkpointed_layers: int = Field(
        0, ge=0, description="Decoder layers that trainers compute again in the backward pass: slower, in less memory."
    )
    worker_hidden_state_cache_bytes: int = Field(
        4 * 2**30,
        ge=0,
        description="Most host memory of a trainer for hidden states that a job asks to keep "
        "(`adapter.cache_frozen_hidden_states`); 0: none are kept.",
    )
    worker_shard_base: bool = Field(
        False, description="Devices of a job each hold a share of the base model's layers: slower, in less memory."
    )
    preview_seconds: float = Field(120.0, gt=0, description="Longest computation of one saliency preview.")
    preview_idle_seconds: float = Field(
        600.0, gt=0, description="How long a worker keeps the base model of the last saliency preview loaded."
    )
    lease_seconds: float = Field(60.0, gt=0, description="Silence after which a running job may be taken over.")
    renew_seconds: float = Field(
        15.0, gt=0, description="Heartbeat period; also the worst delay before a cancel is seen."
    )
    reconcile_seconds: float = Field(
        5.0, gt=0, description="Period of the loop that reaps lost jobs and republishes hints."
    )
    republish_seconds: float = Field(
        30.0, gt=0, description="First wait before a queued job is announced again; doubles, capped at 10 min."
    )
    poll_seconds: float = Field(
        20.0, gt=0, description="Period at which a worker with a free slot asks the database itself."
    )
    stop_grace_seconds: float = Field(30.0, gt=0, description="Time a child has between the stop request and SIGKILL.")
    stall_seconds: float = Field(1800.0, gt=0, description="Longest time without progress before a child is killed.")
    disconnect_seconds: float = Field(
        600.0, gt=0, description="Longest time without the database before a worker stops its child."
    )
    retry_backoff_seconds: float = Field(
        10.0, ge=0, description="First wait before a retried attempt; doubles, capped at 10 min."
    )
    max_lost_attempts: int = Field(
        5, ge=0, description="Infrastructure losses (worker gone, host killed) a job survives."
    )
    max_failed_attempts: int = Field(1, ge=1, description="Attempts that may fail in the child before the job fails.")
    checkpoints_kept: int = Field(2, ge=1, description="Resumable checkpoints kept while a job runs.")
    blob_grace_seconds: float = Field(172_800.0, gt=0, description="Age at which an unreferenced blob is deleted.")

    @field_validator("worker_devices")
    @classmethod
    def _check_devices(cls, value: str) -> str:
        DeviceList.parse(value)
        return value

    @property
    def devices(self) -> DeviceList:
        """What ``worker_devices`` names."""
        return DeviceList.parse(self.worker_devices)

    @property
    def most_gpus(self) -> int:
        """The most devices that a job may ask for."""
        return self.max_gpus_per_job or self.devices.total

    def trainer_threads(self, processes: int = 1) -> int:
        """Return the CPU threads of each of the ``processes`` that train one job."""
        return self.worker_threads or max(1, (os.cpu_count() or 1) // (self.worker_slots * processes))

    @property
    def workspaces(self) -> Path:
        """Folder that holds one scratch folder per running attempt."""
        return self.workspace_dir or self.state_dir / "workspaces"


@lru_cache
def get_settings() -> Settings:
    """Return the settings of this process; the environment is read on the first call only."""
    return Settings()
