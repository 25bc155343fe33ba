"""Settings of the service, from environment variables or from files that they name."""

import ipaddress
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from udig_recon.worker.access.destinations import parse_destinations
from udig_recon.worker.access.tenant_settings import TenantSettings

BUCKETS = ("s3", "gs", "az")
"""Schemes of buckets: S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage."""
SECRET = re.compile(r"whsec_(?:[A-Za-z0-9+/]{4}){8,21}(?:[A-Za-z0-9+/]{2,3}={0,2})?")


WorkerCount = Annotated[int, Field(ge=1, le=64)] | Literal["auto"]


class Settings(TenantSettings):
    """Settings by their environment names, in capitals: `DATABASE_URL`, `DATA`, `PORT`, ...

    Each may come from a file: `DATABASE_URL_FILE` names the file that holds `DATABASE_URL`.
    """

    model_config = SettingsConfigDict(env_file=None, extra="ignore", frozen=True, hide_input_in_errors=True)

    database_url: str | None = Field(None, description="SQLAlchemy URL of Postgres; unset: the embedded server")
    migration_database_url: str | None = Field(
        None,
        description="the same as the role that owns its tables, for migrations; unset: DATABASE_URL",
    )
    direct_database_url: str | None = Field(
        None,
        description="the same as DATABASE_URL without a PgBouncer in transaction mode between, for LISTEN; unset: "
        "DATABASE_URL",
    )
    redis_url: str | None = Field(None, description="URL of a Redis-protocol server; unset: the embedded server")
    redis_prefix: str = Field("udig:", description="prefix of all keys in Redis")
    data: Path = Field(Path(".data"), description="folder of scans, checkpoints, results and embedded servers")
    data_store: str | None = Field(
        None,
        pattern=r"^[a-z][a-z0-9+.-]*:",
        description="where scans, checkpoints and results lie, a URL: a bucket (s3://bucket/prefix, gs://... or "
        "az://...) or another storage backend, by its scheme; unset: DATA",
    )
    cache: Path | None = Field(
        None,
        description="folder of copies of a bucket's objects, which all processes of a machine share; unset: DATA/cache",
    )
    cache_bytes: int = Field(
        32 << 30, ge=0, description="most bytes of that folder; the copies that were used longest ago are removed"
    )
    store_timeout_seconds: float = Field(
        30, gt=0, description="time that a bucket may take to answer one request, of at most 16 MiB"
    )
    store_retry_seconds: float = Field(
        10, gt=0, description="time within which a request to a bucket that failed is sent again"
    )
    result_redirect: bool = Field(
        False, description="whether results in a bucket are answered by a redirect to a signed URL of the bucket"
    )
    priors: Path | None = Field(None, description="folder of further diffusion priors; unset: DATA/priors")
    projectors: Path | None = Field(
        None, description="folder of projectors of CT geometries that were built before; unset: DATA/projectors"
    )
    max_projector_bytes: int = Field(
        16 << 30, ge=0, description="most bytes of that folder; those used longest ago are removed; 0: none are kept"
    )
    host: str = Field("127.0.0.1", description="address that the API binds to")
    authentication: Literal["auto", "on", "off"] = Field(
        "auto", description="whether requests need an API key; auto: unless HOST is a loopback address"
    )
    allowed_hosts: str | None = Field(
        None,
        description="names, divided by spaces, that requests may call the API by (`Host`), beside loopback ones; "
        "unset: any where a key is asked for, no others where none is",
    )
    cors_origins: str | None = Field(
        None,
        description="origins, divided by spaces, whose pages may use the API with a key of theirs, such as "
        "https://viewer.example.org; *: any; unset: none",
    )
    trusted_proxies: str = Field(
        "127.0.0.1 ::1",
        description="addresses or networks, divided by spaces, whose `X-Forwarded-For` tells the client: the last "
        "address there that is none of them; *: all, and the last address",
    )
    port: int = Field(8000, ge=0, le=65535, description="port of the API; 0 takes a free one")
    mrd_stream: bool = Field(False, description="whether `udig serve` starts the MRD stream too")
    mrd_host: str = Field("127.0.0.1", description="address that the MRD stream binds to; it has no encryption")
    mrd_port: int = Field(9002, ge=0, le=65535, description="port of the MRD stream; 0 takes a free one")
    mrd_key: SecretStr | None = Field(
        None, description="API key that scans of the MRD stream are posted by; unset: none, where AUTHENTICATION is off"
    )
    mrd_allowed: str = Field(
        "127.0.0.1 ::1", description="addresses or networks, divided by spaces, that may use the MRD stream"
    )
    mrd_connections: int = Field(8, ge=1, description="connections to the MRD stream at once")
    mrd_timeout_seconds: float = Field(
        30, gt=0, description="a connection to the MRD stream that is silent for this long before its scan is closed"
    )
    workers: WorkerCount = Field(
        2,
        description="worker processes that `udig serve` starts, 1 to 64, dealt out over the GPUs; auto: SLICES_PER_GPU "
        "for each GPU, or one where there is none",
    )
    slices_per_gpu: int = Field(
        1,
        ge=1,
        le=16,
        description="most slices that a GPU computes at once where the number of workers is auto, each in a process of "
        "its own and begun when the GPU's memory has room for it; without a GPU it does nothing",
    )
    threads: int = Field(
        1,
        ge=0,
        description="CPU threads per worker; 0 divides the cores. Only one thread gives the same bits every time",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="device that workers compute on")
    max_upload_bytes: int = Field(8 << 30, ge=1, description="largest scan file")
    disk_reserve_bytes: int = Field(1 << 30, ge=0, description="uploads are refused when less would stay free")
    max_open_jobs: int = Field(1000, ge=1, description="jobs queued or running at once")
    require_sandbox: bool = Field(
        False, description="refuse to start where this machine cannot give every part of the sandbox that reads scans"
    )
    max_connections: int = Field(4096, ge=2, description="connections to one API process; half of them for one address")
    max_waiting_requests: int = Field(1000, ge=2, description="requests without an answer yet; half for one client")
    max_event_streams: int = Field(2000, ge=2, description="event streams at once; half of them for one client")
    max_long_polls: int = Field(1000, ge=2, description="answers held back by `?wait=` at once; half for one client")
    max_uploads: int = Field(64, ge=2, description="uploads at once; half of them for one client")
    max_slices: int = Field(4096, ge=1, description="most slices of one scan")
    max_coils: int = Field(256, ge=1, description="most coils of one scan")
    max_matrix: int = Field(1024, ge=16, description="largest side of an image or of k-space")
    max_detectors: int = Field(4096, ge=16, description="most detectors of a view")
    max_views: int = Field(4096, ge=1, description="most views of one sinogram")
    upload_expiry_hours: float = Field(
        24, gt=0, le=8760, description="a resumable upload to which nothing was added for this long is deleted"
    )
    body_timeout_seconds: float = Field(60, gt=0, description="an upload without progress for this long is closed")
    header_timeout_seconds: float = Field(30, gt=0, description="a request whose headers take longer is closed")
    lease_seconds: float = Field(60, gt=0, description="a worker silent for this long has lost its slice")
    heartbeat_seconds: float = Field(2, gt=0, description="period of lease renewal, progress and cancel check")
    snapshot_seconds: float = Field(2, gt=0, description="period of progress snapshots and previews")
    checkpoint_seconds: float = Field(30, gt=0, description="period of checkpoints")
    sweep_seconds: float = Field(
        5, gt=0, description="period in which queued slices without a message are enqueued again"
    )
    webhook_secret: SecretStr | None = Field(
        None,
        description="key from which each tenant's webhook secret is derived: whsec_ and base64, or several "
        "of these; unset: no webhooks",
    )
    webhook_allow_private: bool = Field(False, description="webhooks may go to private addresses, and by plain http")
    webhook_allowed_hosts: str | None = Field(
        None,
        description="hosts, divided by spaces, that webhooks may go to; `*.example.org` is all within; unset: any",
    )
    webhook_poll_seconds: float = Field(1, gt=0, description="pause between two looks for webhooks that are due")
    webhook_timeout_seconds: float = Field(
        15, gt=0, description="time that a receiver may take to answer a webhook, dribbling included"
    )
    event_keep_alive_seconds: float = Field(
        15, gt=0, description="pause after which a silent event stream gets a comment, and its key is checked again"
    )
    webhook_retry_seconds: float = Field(
        5, gt=0, description="first pause of a webhook's retries; each is twice as long"
    )
    destinations: str | None = Field(
        None,
        description="archives that jobs may name, as TOML; `DESTINATIONS_FILE` names the file: docs/destinations.md",
    )
    destination_poll_seconds: float = Field(1, gt=0, description="pause between two looks for results that are due")
    destination_retry_seconds: float = Field(
        5, gt=0, description="first pause of the retries to send a result; each is twice as long, up to ten minutes"
    )
    otel_exporter_otlp_endpoint: str | None = Field(
        None, pattern=r"^https?://[^\s/]+", description="collector of traces (OTLP over HTTP); unset: no traces"
    )
    audit_key: SecretStr | None = Field(
        None, min_length=32, description="signs the heads of the audit log; `make serve` makes one; unset: no heads"
    )
    audit_heads: str | None = Field(
        None,
        description="where heads of the audit log go beside the service's log: udp://host:514 or tcp://host:514 "
        "(syslog), or file:///path; unset: nowhere",
    )
    audit_head_seconds: float = Field(60, gt=0, description="period of heads of the audit log")
    orphan_seconds: float = Field(
        3600, gt=0, description="stored files without a row are deleted at this age; workers look for them as often"
    )
    stall_seconds: float = Field(
        900, gt=0, description="a worker whose computation makes no progress for this long is ended"
    )
    idle_seconds: float = Field(
        0,
        ge=0,
        description="a worker that has found no work for this long ends, with exit status 0; 0: never. `udig serve`, "
        "which would start it again, takes no notice",
    )
    hung_seconds: float = Field(
        90, ge=1, description="an API or a worker that has not answered for this long is restarted"
    )
    max_job_seconds: float = Field(
        259_200, gt=0, description="limit of a job's compute time, over all its slices, unless the job asks for less"
    )
    scrub_bytes_per_second: int = Field(
        16 << 20, ge=0, description="rate at which stored files are compared with their digests; 0: never"
    )
    scrub_seconds: float = Field(
        86400, gt=0, description="time from the start of one pass over all stored files to the start of the next"
    )
    max_crashes: int = Field(3, ge=1, description="a slice that killed its worker this often fails its job")

    @field_validator("database_url", "migration_database_url", "direct_database_url")
    @classmethod
    def _is_postgres(cls, url: str | None) -> str | None:
        from sqlalchemy import make_url  # here: help, which lists the settings, does not wait for it
        from sqlalchemy.exc import ArgumentError

        try:
            if url is None or make_url(url).get_backend_name() == "postgresql":
                return url
        except ArgumentError:
            pass
        raise ValueError("no URL of a Postgres database, such as postgresql://user:password@host:5432/name")

    @field_validator("destinations")
    @classmethod
    def _are_destinations(cls, text: str | None) -> str | None:
        if text is not None:
            parse_destinations(text)
        return text

    @field_validator("audit_heads")
    @classmethod
    def _is_destination(cls, url: str | None) -> str | None:
        if url is not None:
            check_destination(url)
        return url

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, url: str | None) -> str | None:
        if url is None or url.startswith(("redis://", "rediss://", "unix://")):
            return url
        raise ValueError("no URL of a Redis server, such as redis://:password@host:6379/0")

    @field_validator("data_store")
    @classmethod
    def _is_bucket(cls, url: str | None) -> str | None:
        if url is not None and is_bucket(url):
            parts = urlsplit(url)
            if not parts.netloc or "@" in parts.netloc or parts.query or parts.fragment:
                raise ValueError("a bucket is s3://bucket/prefix, without credentials: those are settings of their own")
        return url

    @field_validator("data")
    @classmethod
    def _is_no_file(cls, folder: Path) -> Path:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is not a folder")
        return folder

    @field_validator("priors")
    @classmethod
    def _is_there(cls, folder: Path | None) -> Path | None:
        if folder is not None and not folder.is_dir():
            raise ValueError(f"there is no folder {folder}")
        return folder

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: str | None) -> str | None:
        for origin in () if origins is None or origins == "*" else origins.split():
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}":
                raise ValueError("each is an origin such as https://viewer.example.org, without path or last slash")
        return origins

    @field_validator("trusted_proxies", "mrd_allowed")
    @classmethod
    def _are_networks(cls, networks: str) -> str:
        for network in () if networks == "*" else networks.split():
            ipaddress.ip_network(network)
        return networks

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.authentication == "off" and not is_loopback(self.host):
            raise ValueError(
                f"AUTHENTICATION: off would let everyone in who reaches {self.host}; on, or HOST=127.0.0.1"
            )
        if self.cors_origins == "*" and not self.authenticates:
            raise ValueError("CORS_ORIGINS: * without keys would let every page in a browser of this machine in")
        if self.heartbeat_seconds >= self.lease_seconds:
            raise ValueError(f"HEARTBEAT_SECONDS: {self.heartbeat_seconds:g} is no less than LEASE_SECONDS")
        return self

    @property
    def authenticates(self) -> bool:
        """Whether requests need an API key."""
        return self.authentication == "on" or (self.authentication == "auto" and not is_loopback(self.host))

    def check_embedded(self, *names: str) -> None:
        """Raise BadSetting where the embedded servers would stand in for these settings, though DATA_STORE is a bucket.

        Machines share a bucket, and none of them has the servers of another.
        """
        missing = [name for name in names if getattr(self, name) is None]
        if missing and self.data_store is not None and is_bucket(self.data_store):
            wanted = " and ".join(map(str.upper, missing))
            raise BadSetting(f"DATA_STORE: a bucket needs servers that machines share, not embedded ones: set {wanted}")

    def check_mrd_stream(self) -> None:
        """Raise BadSetting unless it is clear for whom the MRD stream's scans are posted."""
        if self.mrd_key is not None:
            return
        if self.authenticates:
            raise BadSetting("MRD_KEY: the MRD stream needs an API key, which `udig keys create scanner` makes")
        if not is_loopback(self.mrd_host):
            raise BadSetting(f"MRD_KEY: without a key everyone who reaches {self.mrd_host} could post scans")

    @property
    def names(self) -> frozenset[str] | None:
        """What requests may call the API by, beside loopback names; None: anything."""
        if not self.allowed_hosts:
            return None if self.authenticates else frozenset()
        return frozenset(self.allowed_hosts.lower().split())

    @property
    def origins(self) -> frozenset[str]:
        """Origins whose pages may use the API, in lower case; `*` is any."""
        return frozenset((self.cors_origins or "").lower().split())

    @property
    def webhook_hosts(self) -> frozenset[str] | None:
        """Hosts that webhooks may go to; None: any."""
        return None if self.webhook_allowed_hosts is None else frozenset(self.webhook_allowed_hosts.lower().split())

    @field_validator("webhook_secret")
    @classmethod
    def _is_secret(cls, given: SecretStr | None) -> SecretStr | None:
        if given is None:
            return None
        secrets = given.get_secret_value().split()
        if not secrets or not all(SECRET.fullmatch(secret) for secret in secrets):
            raise ValueError("each is whsec_ and 32 to 86 letters and digits of base64: 24 to 64 random bytes")
        return given

    @property
    def priors_folder(self) -> Path:
        """Folder of further priors, shared by all tenants."""
        return self.priors or self.data / "priors"

    @property
    def cache_folder(self) -> Path:
        """Folder of copies of a bucket's objects."""
        return self.cache or self.data / "cache"

    @property
    def projectors_folder(self) -> Path:
        """Folder of projectors that were built before, shared by the workers of this machine."""
        return self.projectors or self.data / "projectors"

    def priors_folders(self, tenant: str) -> tuple[Path, Path]:
        """Folders of the priors that a tenant may use: the shared one and its own."""
        return self.priors_folder, self.priors_folder / tenant

    @property
    def alive_seconds(self) -> float:
        """A worker counts as alive if it renewed its row within so many seconds."""
        return 4 * self.sweep_seconds

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *_: PydanticBaseSettingsSource, **given: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Sources in order: arguments, the environment, and the files that it names."""
        return given["init_settings"], given["env_settings"], FileSettings(settings_cls)


class FileSettings(PydanticBaseSettingsSource):
    """Settings from the files that `<SETTING>_FILE` names, the convention of Docker images for secrets.

    pydantic-settings' `secrets_dir` reads a folder whose files bear the settings' names. It cannot follow one variable
    a setting, as compose files and operators use it, and it does not refuse a setting that is given twice.
    """

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """The content of the file, without surrounding white space."""
        named = os.environ.get(f"{field_name.upper()}_FILE")  # empty is unset: so one container can undo an env_file
        return Path(named).read_text().strip() if named else None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """All settings that files give. Raises BadSetting."""
        values = {}
        for name, field in self.settings_cls.model_fields.items():
            try:
                value, _, _ = self.get_field_value(field, name)
            except (OSError, UnicodeDecodeError) as error:
                raise BadSetting(f"{name.upper()}_FILE: {getattr(error, 'strerror', None) or 'no text'}") from None
            if value is not None and name.upper() in os.environ:
                raise BadSetting(f"{name.upper()}: {name.upper()}_FILE is set too; set one of them")
            if value is not None:
                values[name] = value
        return values


class BadSetting(Exception):
    """A setting is wrong; the message names it."""


def read_settings() -> Settings:
    """The settings of the environment. Raises BadSetting with one line, which shows no value that may be secret."""
    try:
        return Settings()
    except ValidationError as error:
        raise BadSetting("; ".join(map(_message, error.errors()))) from None


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once; the process ends with one line where one is wrong."""
    try:
        return read_settings()
    except BadSetting as error:
        raise SystemExit(f"error: {error}") from None


def check_destination(url: str) -> None:
    """Raise ValueError unless this is a URL that heads of the audit log can be sent to."""
    parts = urlsplit(url)
    is_file = parts.scheme == "file" and parts.path and not parts.netloc
    is_syslog = parts.scheme in ("udp", "tcp") and parts.hostname and parts.port
    if not is_file and not is_syslog:
        raise ValueError("expected udp://host:port, tcp://host:port or file:///path")


def is_bucket(url: str) -> bool:
    """Whether a URL of DATA_STORE names a bucket."""
    return url.partition(":")[0] in BUCKETS


def is_loopback(host: str) -> bool:
    """Whether a host is a loopback name or address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # another name may resolve to any address


def _message(error: Any) -> str:
    words = error["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if not error["loc"]:
        return str(words)
    name = str(error["loc"][0]).upper()
    # URLs hold passwords.
    secret = name.endswith("_URL") or name in ("WEBHOOK_SECRET", "AUDIT_KEY", "MRD_KEY", "DESTINATIONS")
    return f"{name}: {words}" + ("" if secret else f", found {str(error['input'])!r}")
