"""A process works on the folder of its database or not at all."""

import subprocess
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from tests.support.environment import ROOT, environment
from tests.support.worker_processes import SHORT, Desk
from udig_recon.api.app import create_app
from udig_recon.core.cli import UDIG
from udig_recon.core.cli.main import main as run
from udig_recon.worker.access import audit
from udig_recon.worker.database.tables import ServiceState
from udig_recon.worker.runtime.process import set_up
from udig_recon.worker.settings import Settings, get_settings
from udig_recon.worker.storage import data_folder, keys
from udig_recon.worker.storage.data_folder import ForeignFolder
from udig_recon.worker.storage.local import LocalStorage


def test_a_new_folder_and_a_new_database_get_one_id(database: sessionmaker[Session], storage: LocalStorage) -> None:
    assert data_folder.confirm(database, storage)
    first = data_folder.folder_id(storage)
    assert data_folder.confirm(database, storage)
    with database() as session:
        assert data_folder.database_id(session) == data_folder.folder_id(storage) == first is not None
    assert (storage.root / "identity").stat().st_mode & 0o077 == 0


def test_the_folder_of_an_older_version_is_known_by_the_files_of_its_rows(desk: Desk, tmp_path: Path) -> None:
    desk.submit(desk.scan(), SHORT)
    (desk.storage.root / "identity").unlink()
    with desk.database.begin() as session:
        session.delete(session.get_one(ServiceState, "data_folder"))
    with pytest.raises(ForeignFolder, match="is its share mounted"):
        data_folder.confirm(desk.database, LocalStorage(tmp_path / "mount point"))
    assert data_folder.confirm(desk.database, desk.storage)


def test_an_empty_folder_in_the_place_of_a_share_is_refused_by_all(desk: Desk, tmp_path: Path) -> None:
    desk.submit(desk.scan(), SHORT)
    elsewhere = desk.settings.model_copy(update={"data": tmp_path / "mount point"})
    with pytest.raises(SystemExit, match=r"error: DATA: .*mount point is not the data folder of this database"):
        set_up(elsewhere)
    with pytest.raises(SystemExit, match="is its share mounted"):
        create_app(elsewhere)
    for command in ("worker", "api"):
        ended = subprocess.run(
            [*UDIG, command],
            env=environment(elsewhere),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ended.returncode == 1
        (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
        assert "data-folder adopt" in line
        assert "Traceback" not in ended.stderr
    assert not data_folder.is_ours(desk.database, LocalStorage(elsewhere.data))


def test_the_folder_of_another_database_is_refused(
    database: sessionmaker[Session], storage: LocalStorage, tmp_path: Path
) -> None:
    other = LocalStorage(tmp_path / "other")
    (other.root / "identity").write_text("1234")
    data_folder.confirm(database, storage)
    with pytest.raises(ForeignFolder, match="the data folder of another database"):
        data_folder.confirm(database, other)


def test_what_lies_in_a_folder_is_not_given_to_a_database_without_rows(
    database: sessionmaker[Session], storage: LocalStorage
) -> None:
    storage.path(keys.scan("0" * 64)).write_bytes(b"of a database that was lost")
    with pytest.raises(ForeignFolder, match="another database"):
        data_folder.confirm(database, storage)


def test_a_database_that_does_not_answer_tells_nothing(settings: Settings, storage: LocalStorage) -> None:
    gone = settings.model_copy(update={"database_url": "postgresql://nobody@/none?host=/nowhere"})
    process = set_up(gone)
    assert not process.confirm_data_folder()
    assert data_folder.folder_id(storage) is None


def test_a_folder_is_adopted_deliberately_and_that_is_written_down(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.submit(desk.scan(), SHORT)
    elsewhere = LocalStorage(tmp_path / "moved")
    for name, value in {"DATABASE_URL": str(desk.settings.database_url), "DATA": str(elsewhere.root)}.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    try:
        assert run(["data-folder", "show"]) == 0
        assert capsys.readouterr().out.endswith(": None\n")
        assert run(["data-folder", "adopt"]) == 0
    finally:
        get_settings.cache_clear()
    made = capsys.readouterr().out.strip()
    assert data_folder.confirm(desk.database, elsewhere)
    assert data_folder.folder_id(elsewhere) == made
    with desk.database() as session:
        assert [entry.ids for entry in audit.entries(session)] == [{"folder": made}]
    with pytest.raises(ForeignFolder):
        data_folder.confirm(desk.database, desk.storage)
