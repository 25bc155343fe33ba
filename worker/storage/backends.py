"""Storage backends by the scheme of DATA_STORE. Other distributions add theirs by entry points `udig_recon.storage`."""

from collections.abc import Callable

from udig_recon.core.extensions import BrokenExtension, load_extensions
from udig_recon.worker.settings import BUCKETS, Settings
from udig_recon.worker.storage.base import Storage
from udig_recon.worker.storage.local import LocalStorage

Opener = Callable[[Settings], Storage]
ENTRY_POINTS = "udig_recon.storage"


def _open_bucket(settings: Settings) -> Storage:
    from udig_recon.worker.storage.bucket import BucketStorage  # here: a folder needs no obstore

    return BucketStorage.from_settings(settings)


BACKENDS: dict[str, Opener] = {"folder": LocalStorage.from_settings, **dict.fromkeys(BUCKETS, _open_bucket)}


def open_storage(settings: Settings) -> Storage:
    """The storage of a service: the folder DATA, or what DATA_STORE names. Ends the process where it cannot be used."""
    if settings.data_store is None:
        return _open(LocalStorage.from_settings, settings, f"DATA: {settings.data}")
    scheme = settings.data_store.partition(":")[0]
    try:
        known = load_extensions(ENTRY_POINTS) | BACKENDS
    except BrokenExtension as error:
        raise SystemExit(f"error: DATA_STORE: {error}") from None
    if scheme not in known:
        raise SystemExit(f"error: DATA_STORE: found scheme {scheme!r}, expected one of {', '.join(sorted(known))}")
    return _open(known[scheme], settings, f"DATA_STORE, scheme {scheme}")


def _open(opener: Opener, settings: Settings, name: str) -> Storage:
    try:
        return opener(settings)
    except OSError as error:
        reason = error.strerror or error
        raise SystemExit(f"error: {name} cannot be used as a storage of our own: {reason}") from None
