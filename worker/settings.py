"""Every setting of the service, read once from the environment."""

from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings by their environment names, in capitals: `DATABASE_URL`, `DATA`, `PORT`, ..."""

    model_config = SettingsConfigDict(env_file=None, extra="ignore", frozen=True)

    database_url: str | None = Field(None, description="SQLAlchemy URL of Postgres; unset: the embedded server")
    redis_url: str | None = Field(None, description="URL of a Redis-protocol server; unset: the embedded server")
    redis_prefix: str = Field("udig:", description="what all keys in Redis begin with")
    data: Path = Field(Path(".data"), description="folder of scans, checkpoints, results and embedded servers")
    priors: Path | None = Field(None, description="folder of further diffusion priors; unset: DATA/priors")
    host: str = Field("127.0.0.1", description="address that the API binds to")
    port: int = Field(8000, ge=0, le=65535, description="port of the API; 0 takes a free one")
    workers: int = Field(2, ge=1, le=64, description="worker processes that `make serve` starts")
    threads: int = Field(
        1,
        ge=0,
        description="CPU threads per worker; 0 divides the cores. Only one thread gives the same bits every time",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where workers compute")
    max_upload_bytes: int = Field(8 << 30, ge=1, description="largest scan file")
    disk_reserve_bytes: int = Field(1 << 30, ge=0, description="uploads are refused when less would stay free")
    max_open_jobs: int = Field(1000, ge=1, description="jobs queued or running at once")
    max_slices: int = Field(1024, ge=1, description="slices of one scan")
    max_coils: int = Field(64, ge=1, description="coils of one scan")
    max_matrix: int = Field(1024, ge=16, description="largest side of an image, k-space or detector row")
    max_views: int = Field(4096, ge=1, description="views of one sinogram")
    body_timeout_seconds: float = Field(60, gt=0, description="an upload without progress is closed after this")
    header_timeout_seconds: float = Field(30, gt=0, description="a request whose headers dribble is closed after this")
    lease_seconds: float = Field(60, gt=0, description="a worker silent for this long has lost its slice")
    heartbeat_seconds: float = Field(2, gt=0, description="period of lease renewal, progress and cancel check")
    snapshot_seconds: float = Field(2, gt=0, description="period of progress snapshots and previews")
    checkpoint_seconds: float = Field(30, gt=0, description="period of checkpoints")
    sweep_seconds: float = Field(5, gt=0, description="period in which waiting rows are rung again")
    orphan_seconds: float = Field(
        3600, gt=0, description="files that no job or scan names are removed at this age; workers look as often"
    )
    max_crashes: int = Field(3, ge=1, description="a slice that killed its worker this often fails its job")

    @property
    def priors_folder(self) -> Path:
        """Folder of further priors."""
        return self.priors or self.data / "priors"

    @property
    def alive_seconds(self) -> float:
        """How long ago a worker may have been seen to count as alive."""
        return 4 * self.sweep_seconds


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process."""
    return Settings()
