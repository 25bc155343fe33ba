"""The system user that embedded Postgres runs as when root starts the service: Postgres refuses to run as root."""

import pwd
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple, Self

NAME = "udig_postgres"
CAP_DAC_READ_SEARCH = 2


class SystemUserError(Exception):
    """The user does not exist and cannot be made."""


class SystemUser(NamedTuple):
    """A user without rights. `prefix` before a command runs the command as it."""

    uid: int
    gid: int
    setpriv: str

    @classmethod
    def find_or_make(cls) -> Self:
        """The user of the service; root makes it once. Raises SystemUserError."""
        if (setpriv := shutil.which("setpriv")) is None:
            raise SystemUserError("started by root, Postgres needs `setpriv` of util-linux; start as another user")
        try:
            user = pwd.getpwnam(NAME)
        except KeyError:
            command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", NAME]
            if shutil.which("useradd") is None or subprocess.run(command, capture_output=True, check=False).returncode:
                raise SystemUserError(
                    f"started by root, Postgres needs a user of its own, but `{' '.join(command)}` failed; "
                    "start as another user"
                ) from None
            user = pwd.getpwnam(NAME)
        return cls(user.pw_uid, user.pw_gid, setpriv)

    @property
    def prefix(self) -> list[str]:
        """The command that changes to the user, and dies with its parent as the server should.

        The folders above the database stay closed to others: one capability lets this user pass through them.
        """
        capability = "dac_read_search" if _has(CAP_DAC_READ_SEARCH) else "dac_override"
        identity = [f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups", "--pdeathsig=INT"]
        return [self.setpriv, *identity, f"--inh-caps=-all,+{capability}", f"--ambient-caps=-all,+{capability}"]


def _has(capability: int) -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> capability & 1)
