"""Settings as a process of the service reads them."""

import os
from pathlib import Path

from pydantic import SecretStr

from udig_recon.worker.settings import Settings

ROOT = Path(__file__).parents[2]


def environment(settings: Settings) -> dict[str, str]:
    """The environment of a process with these settings."""
    given = {name: value for name, value in settings.model_dump().items() if value is not None}
    spelt = {
        name.upper(): value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in given.items()
    }
    folders = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **spelt, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
