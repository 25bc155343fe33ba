"""Destinations: archives that the operator's TOML file names, and which tenants may send results to them.

Jobs and rows hold names only. What a name means, and the credentials for it, stand in this file and in the files that
it names.
"""

import re
import ssl
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from udig_recon.worker.access.limits import TENANT

ALL_TENANTS = "*"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
MOST_SECRET_BYTES = 64 << 10


def _readable(path: Path) -> Path:
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise ValueError(f"{path} is empty")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    return path


def _absolute(text: object) -> Path:
    # A relative path would mean another file in each process.
    if not isinstance(text, str) or not text.startswith("/"):
        raise ValueError("expected an absolute path")
    return Path(text)


def _is_web_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("expected an http or https URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("expected an http or https URL with a host, such as https://pacs.example.org/dicom-web")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a user name or password does not belong here; set username and password_file")
    if not re.fullmatch(r"[!-~]+", url):
        raise ValueError("expected printable ASCII letters without blanks; others are written as %XX")
    if parts.query or parts.fragment:
        raise ValueError("expected a URL without query and fragment")
    return url.rstrip("/")


def _is_tenant(name: str) -> str:
    if name != ALL_TENANTS and not re.fullmatch(TENANT, name):
        raise ValueError('expected the name of a tenant, or "*" for all')
    return name


ReadableFile = Annotated[Path, BeforeValidator(_absolute), AfterValidator(_readable)]
# DICOM PS3.5, value representation AE: no backslash and no control characters, at most 16, not blanks alone.
AETitle = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=16, pattern=r"^[ -\[\]-~]+$")
]


class _Destination(BaseModel):
    """What destinations of both kinds have."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    tenants: list[Annotated[str, AfterValidator(_is_tenant)]] = Field(min_length=1)  # that may name it; ["*"]: all
    identifiers: bool = False  # whether objects carry the identifiers of patient and study
    timeout_seconds: float = Field(30.0, gt=0, le=3600)  # without progress, after which an attempt has failed
    ca_file: ReadableFile | None = None  # PEM, of who signed the archive's certificate; none: the system's
    certificate_file: ReadableFile | None = None  # PEM, by which the service shows who it is
    key_file: ReadableFile | None = None  # PEM, of that certificate, without a passphrase

    def allows(self, tenant: str) -> bool:
        """Whether jobs of a tenant may name this destination."""
        return tenant in self.tenants or ALL_TENANTS in self.tenants

    def ssl_context(self) -> ssl.SSLContext:
        """TLS to this archive, which must show a valid certificate. Raises ssl.SSLError and OSError."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.certificate_file is not None:
            # The password is asked for on the terminal otherwise.
            context.load_cert_chain(self.certificate_file, self.key_file, password=lambda: "")
        return context

    def _check_certificates(self) -> None:
        if self.key_file is not None and self.certificate_file is None:
            raise ValueError("key_file needs certificate_file beside it")
        try:
            ssl.create_default_context(cafile=self.ca_file)
        except (ssl.SSLError, OSError):
            raise ValueError(f"ca_file: {self.ca_file} holds no certificate in PEM form") from None
        try:
            self.ssl_context()
        except (ssl.SSLError, OSError):
            raise ValueError(
                f"certificate_file: {self.certificate_file} and its key are no pair in PEM form without a passphrase"
            ) from None


class DICOMwebDestination(_Destination):
    """An archive that takes objects by STOW-RS (DICOM PS3.18, 10.5)."""

    kind: Literal["dicomweb"]
    url: Annotated[str, AfterValidator(_is_web_url)]  # to which /studies is added
    token_file: ReadableFile | None = None  # a bearer token, read at each attempt
    username: str | None = Field(None, min_length=1)
    password_file: ReadableFile | None = None  # read at each attempt

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and password_file go together")
        if self.username is not None and self.token_file is not None:
            raise ValueError("token_file and username are two ways to log in; set one of them")
        if self.url.startswith("http:") and (self.ca_file or self.certificate_file or self.key_file):
            raise ValueError("url: certificates need an https URL")
        self._check_certificates()
        return self


class DIMSEDestination(_Destination):
    """An archive that takes objects by C-STORE (DICOM PS3.4 B)."""

    kind: Literal["dimse"]
    host: str = Field(max_length=253, pattern=r"^[A-Za-z0-9._:%-]+$")
    port: int = Field(ge=1, le=65535)
    ae_title: AETitle  # of the archive
    calling_ae_title: AETitle = "UDIG"  # of this service
    tls: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.tls and (self.ca_file or self.certificate_file or self.key_file):
            raise ValueError("certificates need tls = true")
        self._check_certificates()
        return self


Destination = DICOMwebDestination | DIMSEDestination
_ADAPTER: TypeAdapter[Destination] = TypeAdapter(Annotated[Destination, Field(discriminator="kind")])


def parse_destinations(text: str) -> Mapping[str, Destination]:
    """Destinations by name, from the content of the operator's file. Raises ValueError with one line."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"this is no TOML: {error}") from None
    return {name: _destination(name, table) for name, table in tables.items()}


def _destination(name: str, table: object) -> Destination:
    if not NAME.fullmatch(name):
        raise ValueError(f"[{name[:80]}]: a name has at most 63 letters, digits, - and _")
    if not isinstance(table, dict):
        raise ValueError(f"{name}: expected a table for each destination, such as [radiology]")
    try:
        return _ADAPTER.validate_python(table)
    except ValidationError as error:
        raise ValueError(f"[{name}] {_describe(error.errors()[0])}") from None


def _describe(error: Any) -> str:
    """The first thing wrong of a destination, without values that may be secret."""
    kinds = ("dicomweb", "dimse")
    where = ".".join(str(part) for part in error["loc"] if part not in kinds)
    if error["type"].startswith("union_tag"):
        return 'kind: expected "dicomweb" or "dimse"'
    if error["type"] == "extra_forbidden":
        return f"{where}: there is no such option"
    words = error["msg"].removeprefix("Value error, ").replace("Input should", "should")
    return f"{where}: {words}" if where else words


def read_secret(path: Path) -> str:
    """The content of a file with a token or password, without surrounding white space. Raises OSError."""
    with path.open("rb") as file:
        return file.read(MOST_SECRET_BYTES).decode(errors="replace").strip()
