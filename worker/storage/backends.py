"""Storage backends by the scheme of DATA_STORE. Other distributions add theirs by entry points `udig_recon.storage`."""

from collections.abc import Callable
from importlib.metadata import entry_points

from udig_recon.worker.settings import Settings
from udig_recon.worker.storage.base import Storage
from udig_recon.worker.storage.local import LocalStorage

Opener = Callable[[Settings], Storage]
GROUP = "udig_recon.storage"
BACKENDS: dict[str, Opener] = {"folder": LocalStorage.from_settings}


def backends() -> dict[str, Opener]:
    """Scheme -> what opens the storage, those of other installed distributions included."""
    return {each.name: each.load() for each in entry_points(group=GROUP)} | BACKENDS


def open_storage(settings: Settings) -> Storage:
    """The storage of a service: the folder DATA, or what DATA_STORE names. Ends the process where it cannot be used."""
    if settings.data_store is None:
        opener: Opener = LocalStorage.from_settings
    else:
        scheme = settings.data_store.partition(":")[0]
        known = backends()
        if scheme not in known:
            raise SystemExit(f"error: DATA_STORE: found scheme {scheme!r}, expected one of {', '.join(sorted(known))}")
        opener = known[scheme]
    try:
        return opener(settings)
    except OSError as error:
        name = "DATA" if settings.data_store is None else "DATA_STORE"
        where = settings.data if settings.data_store is None else settings.data_store
        raise SystemExit(f"error: {name}: {where} cannot be used as a storage of our own: {error.strerror}") from None
