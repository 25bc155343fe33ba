"""Every command of a deployment page runs here as it stands, or the page says in one line why it cannot."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
import yaml
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import make_url

from tests.conftest import Services
from tests.support import slurm
from tests.support.helm import helm
from tests.support.scans import ct, write_hdf5
from udig_recon.worker.cli.postgres import run as run_program
from udig_recon.worker.database.engine import conninfo
from udig_recon.worker.settings import Settings
from udig_recon.worker.standalone.servers import postgres_binaries

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted((ROOT / "docs" / "deployment").glob("*.md")),
    ROOT / "docs" / "operations.md",
    ROOT / "docs" / "object-storage.md",
]
RUN_ELSEWHERE = {"backup", "restore"}  # tests/test_backup.py
FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    """A block of commands, in the order of its page."""

    page: str
    mark: str
    text: str


BLOCKS = [
    Block(page.name, each["mark"] or "", each["text"])
    for page in PAGES
    for each in FENCE.finditer(page.read_text())
    if each["language"] in ("bash", "sh", "console", "shell")
]
RUN = [block for block in BLOCKS if block.mark.startswith("run: ")]


def test_every_block_of_commands_runs_here_or_says_why_it_cannot() -> None:
    said = re.compile(r"run: \w+|not run: it .{3,80}")
    silent = [block for block in BLOCKS if not said.fullmatch(block.mark) and block.mark not in RUN_ELSEWHERE]
    assert silent == []
    assert {"compose.md", "kubernetes.md", "slurm.md", "systemd.md"} <= {block.page for block in RUN}


def test_links_of_the_pages_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_no_command_stands_outside_a_block_of_commands() -> None:
    """Indented blocks and fences without a language could hold commands that nothing runs."""
    for page in PAGES[:-2]:
        text = FENCE.sub("", page.read_text())
        assert not re.search(r"^ {4}(udig|docker|helm|kubectl|systemctl|sudo|sbatch) ", text, re.MULTILINE), page.name
        assert "```" not in text, page.name


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}:{block.text.split()[0]}")
def test_a_block_is_a_script_that_bash_can_read(block: Block) -> None:
    read = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
    assert read.returncode == 0, read.stderr


def run_page(page: str, kind: str, folder: Path, variables: dict[str, str]) -> None:
    """Run the blocks of a page that need this, one after the other in one folder."""
    for name in ("docs", ".env.example"):
        (folder / name).symlink_to(ROOT / name)
    blocks = [block for block in RUN if block.page == page and block.mark == f"run: {kind}"]
    assert blocks
    for block in blocks:
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text],
            cwd=folder,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, f"{block.text}\n{ran.stdout}\n{ran.stderr}"


def on_path(*programs: str) -> str:
    """PATH that begins with the folders of these programs and with that of `udig`."""
    folders = [str(Path(each).parent) for each in (*programs, sys.executable)]
    return os.pathsep.join([*folders, os.environ["PATH"]])


def test_the_chart_is_installed_as_its_page_says(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "helm").symlink_to(helm())
    run_page("kubernetes.md", "helm", tmp_path, {"PATH": on_path(str(folder / "helm"))})
    made = {path.name: path.read_text() for path in (tmp_path / "credentials").iterdir()}
    Settings.model_validate(made)
    assert "kind: Ingress" in (tmp_path / "objects.yaml").read_text()


def test_the_queries_of_the_alerts_run(settings: Settings) -> None:
    commands = [shlex.split(block.text) for block in RUN if block.page == "operations.md"]
    assert commands
    for program, command, *arguments in commands:
        assert (program, command) == ("udig", "postgres")
        assert run_program(settings, [*arguments, "--set=ON_ERROR_STOP=1"]) == 0


def test_compose_finds_what_its_page_makes(tmp_path: Path) -> None:
    run_page("compose.md", "files", tmp_path, {})
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert {path.name for path in (tmp_path / "secrets").iterdir()} == set(compose["secrets"])
    (folder,) = re.findall(r"^TLS_FOLDER=(.+)$", (tmp_path / ".env").read_text(), re.MULTILINE)
    assert folder == "./tls"


def test_units_and_secrets_lie_where_systemd_looks_for_them(tmp_path: Path) -> None:
    root = tmp_path / "root"
    run_page("systemd.md", "files", tmp_path, {"ROOT": str(root)})
    for unit in (root / "etc" / "systemd" / "system").iterdir():
        for needed in re.findall(r"^LoadCredential=\w+:(.*)$", unit.read_text(), re.MULTILINE):
            if not needed.endswith("/mrd_key"):  # a key of the API, which is made once that runs
                assert (root / needed[1:]).stat().st_mode & 0o077 == 0
    secrets = {path.name: path.read_text() for path in (root / "etc" / "udig-recon" / "secrets").iterdir()}
    Settings.model_validate(secrets)
    assert (root / "usr" / "lib" / "sysusers.d" / "udig-recon.conf").is_file()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is missing")
def test_the_certificate_of_a_try_is_one(tmp_path: Path) -> None:
    run_page("compose.md", "openssl", tmp_path, {})
    for name in ("certificate.pem", "key.pem"):
        assert (tmp_path / "tls" / name).read_text().startswith("-----BEGIN")


def test_batch_jobs_are_submitted_as_the_page_on_slurm_says(settings: Settings, tmp_path: Path) -> None:
    if not slurm.is_installed():
        pytest.skip("slurm is not installed: apt-get install slurmctld slurmd munge")
    (tmp_path / "scans").mkdir()
    write_hdf5(tmp_path / "scans" / "a.h5", **ct(size=16))
    with slurm.cluster(tmp_path / "slurm") as variables:
        named = {"POSTGRES_URL": settings.database_url, "QUEUE_URL": settings.redis_url, "SHARED_DATA": settings.data}
        variables |= {name: str(value) for name, value in named.items()}
        run_page("slurm.md", "slurm", tmp_path, {**variables, "HOME": str(tmp_path), "PATH": on_path()})
    assert "sirt" in (tmp_path / "comparison" / "comparison.md").read_text()


@pytest.fixture
def as_superuser(services: Services, settings: Settings) -> Iterator[dict[str, str]]:
    """Environment of PostgreSQL's programs for a superuser of the test's database; the roles of KEDA go afterwards."""
    url = make_url(services.database_url).set(database=make_url(str(settings.database_url)).database)
    given = conninfo_to_dict(conninfo(url.render_as_string(hide_password=False)))
    yield {f"PG{key.upper()}".replace("PGDBNAME", "PGDATABASE"): str(value) for key, value in given.items()}
    with psycopg.connect(conninfo(url.render_as_string(hide_password=False)), autocommit=True) as connection:
        connection.execute("DROP OWNED BY udig_count")
        connection.execute("DROP ROLE udig_count")


def test_the_role_of_keda_counts_open_slices_and_reads_nothing_else(
    as_superuser: dict[str, str], tmp_path: Path
) -> None:
    counting = as_superuser | {"COUNT_PASSWORD": "counting", "PATH": on_path(str(postgres_binaries() / "psql"))}
    run_page("kubernetes.md", "psql", tmp_path, counting)
    template = (ROOT / "docs" / "deployment" / "chart" / "templates" / "workers.yaml").read_text()
    (query,) = re.findall(r"query: (SELECT .*)$", template, re.MULTILINE)
    role = {"user": "udig_count", "password": "counting", "dbname": as_superuser["PGDATABASE"]}
    with psycopg.connect(host=as_superuser["PGHOST"], port=as_superuser.get("PGPORT"), **role) as connection:
        connection.autocommit = True
        assert connection.execute(query).fetchone() == (0,)
        for forbidden in ("SELECT * FROM job_slices", "SELECT count(*) FROM jobs", "DELETE FROM job_slices"):
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute(forbidden)
