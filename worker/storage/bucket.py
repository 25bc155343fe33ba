"""The storage backend of a bucket: S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage.

A put is atomic: an object is there whole or not at all, and no name changes. What a bucket cannot do a group's marker
stands for: an object `GROUP/.group`, without which nothing is written to the group. Who has written asks for it again,
and removes the object where the group went meanwhile.

Readers get a local file from the cache. Each fetch is of the version that was asked for first, range by range, so that
no request takes long. Requests that fail are sent again within bounds; then StorageUnavailable is raised.
"""

import io
import itertools
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from functools import partial
from io import BufferedReader, FileIO, RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from udig_recon.worker.settings import BadSetting, Settings
from udig_recon.worker.storage.base import Group, SignedRequest, Storage, StorageUnavailable, StoredObject
from udig_recon.worker.storage.cache import Cache
from udig_recon.worker.storage.keys import JOBS, group_of
from udig_recon.worker.storage.scratch import Scratch, make_private_folder, remove_abandoned

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

log = logging.getLogger(__name__)
BLOCK_BYTES = 16 << 20  # of one request, in both directions
AT_ONCE = 4  # requests for one file
MARKER = ".group"
CLOCK = "clock"  # an object that is written only to see when the store thinks that was
TRIES = 3  # of a body that broke off, and of an object that is replaced while it is fetched
DELETED_AT_ONCE = 1000  # the most that one request may name
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_KEY",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
)
"""Variables of the environment that may come from files: `AWS_ACCESS_KEY_ID_FILE`. obstore reads many more itself."""
BLOB_HEADERS = {"az": {"x-ms-blob-type": "BlockBlob"}}
"""Headers without which a scheme's store takes no object by a signed request."""


class _Replaced(Exception):
    """The object was replaced while it was fetched."""


class BucketStorage(Storage):
    """Objects below a prefix of a bucket; scratch files, uploads and copies of objects lie in local folders."""

    keeps_previews = False
    local_scratch = True

    def __init__(self, store: "ObjectStore", location: str, folder: Path, cache: Cache, reserve_bytes: int = 0) -> None:
        super().__init__(reserve_bytes)
        self.location, self.cache = location, cache
        self._store, self._folder = store, folder.absolute()
        self._incoming = self._folder / "incoming"
        self._staged: dict[Path, tuple[str, str]] = {}  # file -> its key, and the version that it has there
        self._is_away, self._asking_again = False, threading.Lock()
        make_private_folder(self._folder)
        make_private_folder(self._incoming)

    @classmethod
    def from_settings(cls, settings: Settings) -> "BucketStorage":
        """The bucket of DATA_STORE. Asks it nothing. Raises OSError where credentials or local folders cannot be used.

        The messages of the library are not passed on: they may quote a secret.
        """
        url = str(settings.data_store)
        options: dict[str, Any] = {
            "config": _credentials(os.environ),
            "client_options": {
                # An endpoint by plain HTTP is in a network of the operator's own; there is none unless it is set.
                "allow_http": any(value.startswith("http://") for value in _endpoints(os.environ)),
                "timeout": timedelta(seconds=settings.store_timeout_seconds),
                "connect_timeout": timedelta(seconds=min(5.0, settings.store_timeout_seconds)),
            },
            "retry_config": {
                "max_retries": 100,  # the time is what bounds them
                "retry_timeout": timedelta(seconds=settings.store_retry_seconds),
                "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2)},
            },
        }
        try:
            store: Any = from_url(url, **options)
        except (BaseError, ValueError) as error:
            raise OSError(0, f"the bucket's address or credentials cannot be used ({type(error).__name__})") from None
        cache = Cache(settings.cache_folder, settings.cache_bytes, settings.disk_reserve_bytes)
        return cls(store, url, settings.data, cache, settings.disk_reserve_bytes)

    def info(self, key: str) -> StoredObject:
        """See Storage."""
        return _described(key, self._head(key))

    def open(self, key: str, *, bypass_cache: bool = False) -> BinaryIO:
        """See Storage: a copy in the cache, or the object itself, block by block."""
        if bypass_cache:
            return BufferedReader(_ObjectReader(self, key, self._head(key)), 1 << 20)
        with self._copy(key) as (_, file):
            return os.fdopen(os.dup(file.fileno()), "rb")

    @contextmanager
    def local(self, key: str, *, bypass_cache: bool = False) -> Iterator[Path]:
        """See Storage: the copy in the cache, or one that is fetched for this alone."""
        if bypass_cache:
            with self.scratch() as scratch:
                self._fetch(key, self._head(key), scratch.file)
                yield scratch.path
        else:
            with self._copy(key) as (path, _):
                yield path

    def read(self, key: str) -> bytes:
        """See Storage; the cache keeps no copy."""
        for _ in range(TRIES):
            with suppress(_Replaced):
                found = self._head(key)
                content = io.BytesIO()
                for start in range(0, found["size"], BLOCK_BYTES):
                    content.write(self.read_range(key, found, start, min(start + BLOCK_BYTES, found["size"])))
                return content.getvalue()
        raise StorageUnavailable("the object keeps being replaced")

    def put(self, key: str, content: bytes | memoryview) -> None:
        """See Storage."""
        self._put(key, bytes(content))

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """See Storage: a scratch file, which is put."""
        self._require_group(key)
        with self.scratch() as scratch:
            yield scratch.path
            # Whoever wrote may have put another file in its place.
            self._put(key, scratch.path)

    def scratch(self) -> Scratch:
        """See Storage."""
        return Scratch(self._incoming)

    def stage(self, path: Path, key: str) -> None:
        """See Storage: the file is put."""
        for gone in [each for each in list(self._staged) if not each.exists()]:  # never committed, as by a quota
            self._staged.pop(gone, None)
        self._put(key, path)
        self._staged[path] = (key, _version(self._head(key)))

    def commit(self, scratch: Path, key: str) -> None:
        """See Storage: the file is put, unless it was staged and is still there. Its owner deletes it."""
        if (staged := self._staged.pop(scratch, None)) is not None and staged[0] == key:
            with suppress(FileNotFoundError):
                if _version(self._head(key)) == staged[1]:
                    return
        self._put(key, scratch)

    def uploads_folder(self) -> Path:
        """See Storage: of this machine."""
        return self._folder / "uploads"

    def delete(self, key: str) -> None:
        """See Storage; this machine's copies go too, those of others when they look for leftovers."""
        self._delete([key])
        self.cache.drop(key)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """See Storage."""
        for found in self._listed(prefix):
            if not found["path"].endswith(f"/{MARKER}"):
                yield _described(found["path"], found)

    def delete_prefix(self, prefix: str) -> None:
        """See Storage: the marker first, then all objects until no more are listed."""
        if group_of(f"{prefix}/x") == prefix:
            self._delete([f"{prefix}/{MARKER}"])
        # What was written between marker and listing its writer removes; what a second listing shows goes here.
        for _ in range(TRIES):
            found = [each["path"] for each in self._listed(prefix)]
            if not found:
                return
            self._delete(found)
            self.cache.drop(*found)

    def create_group(self, group: str) -> None:
        """See Storage."""
        with suppress(FileNotFoundError):
            self._head(f"{group}/{MARKER}")
            return
        with self._answers():
            obstore.put(self._store, f"{group}/{MARKER}", b"")

    def has_group(self, group: str) -> bool:
        """See Storage."""
        return self.exists(f"{group}/{MARKER}")

    def groups(self) -> Iterator[tuple[str, float]]:
        """See Storage; one whose marker is gone and in which something was left counts too."""
        for group in self.groups_with_keys():
            yield group.name, group.modified

    def groups_with_keys(self) -> Iterator[Group]:
        """See Storage: all of it by one listing, in which the objects of a group follow each other."""
        jobs = (found for found in self._listed(JOBS) if group_of(found["path"]) is not None)
        for name, objects in itertools.groupby(jobs, lambda found: str(group_of(found["path"]))):
            found = list(objects)
            modified = max(each["last_modified"].timestamp() for each in found)
            yield Group(name, modified, [each["path"] for each in found if each["path"] != f"{name}/{MARKER}"])

    def remove_leftovers(self, before: float) -> int:
        """See Storage: of this machine. Multipart uploads that were cut off a rule of the bucket has to remove."""
        removed = remove_abandoned(self._incoming, before)
        return removed + self.cache.remove_leftovers(before, self._version_now)

    def now(self) -> float:
        """See Storage: the store dates an object that is written for this."""
        with self._answers():
            obstore.put(self._store, CLOCK, b"")
            return obstore.head(self._store, CLOCK)["last_modified"].timestamp()

    def free_bytes(self) -> int:
        """See Storage: of the disk of scratch files and uploads; a bucket has no end but the tenants' quotas."""
        return shutil.disk_usage(self._folder).free

    def drop_copy(self, key: str) -> bool:
        """See Storage."""
        return self.cache.drop(key)

    def sign(self, method: str, key: str, seconds: float) -> SignedRequest | None:
        """See Storage."""
        try:  # asks nobody but whoever gives the credentials
            url: str = obstore.sign(self._store, method, key, timedelta(seconds=seconds))  # type: ignore[call-overload]
        except BaseError as error:
            raise _unavailable(type(error).__name__) from None
        scheme = urlsplit(self.location).scheme
        return SignedRequest(method, url, BLOB_HEADERS.get(scheme, {}) if method == "PUT" else {})

    def read_range(self, key: str, found: "ObjectMeta", start: int, end: int) -> bytes:
        """Bytes of one version of an object. Raises FileNotFoundError, and _Replaced where there is another one."""
        for attempt in range(TRIES):
            with self._answers(key):
                result = obstore.get(self._store, key, options={"range": (start, end)})
            if _version(result.meta) != _version(found):
                raise _Replaced
            try:
                content = bytes(result.bytes())
            except BaseError as error:
                log.warning("storage.unavailable", extra={"error": type(error).__name__})
                time.sleep(0.1 * 2**attempt)
                continue
            if len(content) == end - start:
                return content
        raise StorageUnavailable("answers break off")

    @contextmanager
    def _answers(self, key: str | None = None) -> Iterator[None]:
        """Turn errors of the library into those of Storage; of a missing object only where `key` is to be read.

        Where nothing is read, what is missing is the bucket. The library's messages hold URLs, which may be signed.
        After a request without an answer one thread at a time asks again, and the others fail at once: they would keep
        all threads of the process waiting.
        """
        if not self._is_away:
            with self._translated(key):
                yield
        elif self._asking_again.acquire(blocking=False):
            try:
                with self._translated(key):
                    yield
            finally:
                self._asking_again.release()
        else:
            raise StorageUnavailable("it did not answer a moment ago")

    @contextmanager
    def _translated(self, key: str | None) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            if key is not None:
                self._is_away = False
                raise FileNotFoundError(key) from None
            self._is_away = True
            raise _unavailable("NoSuchBucket") from None
        except BaseError as error:
            self._is_away = True
            raise _unavailable(type(error).__name__) from None
        self._is_away = False

    def _head(self, key: str) -> "ObjectMeta":
        with self._answers(key):
            return obstore.head(self._store, key)

    def _version_now(self, key: str) -> str | None:
        try:
            return _version(self._head(key))
        except FileNotFoundError:
            return None

    @contextmanager
    def _copy(self, key: str) -> Iterator[tuple[Path, BufferedReader]]:
        with ExitStack() as opened:
            for _ in range(TRIES):
                found = self._head(key)
                fetch = partial(self._fetch, key, found)
                with suppress(_Replaced):
                    yield opened.enter_context(self.cache.opened(key, _version(found), found["size"], fetch))
                    return
        raise StorageUnavailable("the object keeps being replaced")

    def _fetch(self, key: str, found: "ObjectMeta", file: FileIO) -> None:
        """Write this version of an object to a file."""

        def fetch(start: int) -> None:
            end = min(start + BLOCK_BYTES, found["size"])
            left, place = memoryview(self.read_range(key, found, start, end)), start
            while left:
                written = os.pwrite(file.fileno(), left, place)
                left, place = left[written:], place + written

        starts = range(0, found["size"], BLOCK_BYTES)
        if len(starts) < 2:
            for start in starts:
                fetch(start)
            return
        with ThreadPoolExecutor(min(AT_ONCE, len(starts)), "fetch") as pool:
            for _ in pool.map(fetch, starts):
                pass

    def _put(self, key: str, content: bytes | Path) -> None:
        self._require_group(key)
        with self._answers():
            obstore.put(self._store, key, content, chunk_size=BLOCK_BYTES, max_concurrency=AT_ONCE)
        try:
            self._require_group(key)
        except FileNotFoundError:
            self._delete([key])
            raise

    def _require_group(self, key: str) -> None:
        if (group := group_of(key)) is not None:
            self._head(f"{group}/{MARKER}")

    def _delete(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), DELETED_AT_ONCE):
            with self._answers():
                try:
                    obstore.delete(self._store, keys[start : start + DELETED_AT_ONCE])
                except FileNotFoundError:
                    self._delete_singly(keys[start : start + DELETED_AT_ONCE])

    def _delete_singly(self, keys: Sequence[str]) -> None:
        """Delete objects one by one: a store that refuses to delete what is missing leaves the others of a request."""
        for key in keys:
            with suppress(FileNotFoundError):
                obstore.delete(self._store, key)
        # Where not an object but the bucket is missing, a listing fails too.
        next(iter(obstore.list(self._store, keys[0])), None)

    def _listed(self, prefix: str) -> "Iterator[ObjectMeta]":
        pages = iter(obstore.list(self._store, prefix))
        while True:
            with self._answers():
                page = next(pages, None)
            if page is None:
                return
            yield from page


class _ObjectReader(RawIOBase):
    """An object itself as a file, read range by range."""

    def __init__(self, storage: BucketStorage, key: str, found: "ObjectMeta") -> None:
        self._storage, self._key, self._found, self._position = storage, key, found, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._found["size"]}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + len(buffer), self._found["size"])
        if self._position >= end:
            return 0
        try:
            content = self._storage.read_range(self._key, self._found, self._position, end)
        except _Replaced:
            raise StorageUnavailable("the object was replaced while it was read") from None
        buffer[: len(content)] = content
        self._position = end
        return len(content)


def _unavailable(reason: str) -> StorageUnavailable:
    log.warning("storage.unavailable", extra={"error": reason})
    return StorageUnavailable(reason)


def _version(found: "ObjectMeta") -> str:
    """One that changes with the bytes: the entity tag, or where there is none the date."""
    return f"{found['e_tag'] or found['last_modified'].timestamp()} {found['version']} {found['size']}"


def _described(key: str, found: "ObjectMeta") -> StoredObject:
    return StoredObject(key, found["size"], found["last_modified"].timestamp(), _version(found))


def _endpoints(environment: Mapping[str, str]) -> list[str]:
    names = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "GOOGLE_BASE_URL")
    return [environment[name] for name in names if name in environment]


def _credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """Credentials from the files that `<NAME>_FILE` names. Raises BadSetting."""
    found = {}
    for name in CREDENTIALS:
        if (path := environment.get(f"{name}_FILE")) and name in environment:
            raise BadSetting(f"{name}: {name}_FILE is set too; set one of them")
        if path:
            try:
                found[name.lower()] = Path(path).read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise BadSetting(f"{name}_FILE: {getattr(error, 'strerror', None) or 'no text'}") from None
    return found
