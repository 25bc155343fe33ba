from pathlib import Path

from benchmarks.contract import broken, something_there
from benchmarks.data.tiny_scans import GOOD
from tests.support.api_server import serving
from tests.support.worker_processes import working
from udig_recon.worker.settings import Settings


def test_every_answer_is_one_that_the_document_declares(settings: Settings, tmp_path: Path) -> None:
    with serving(settings) as served, working(settings):
        known = something_there(served.url, GOOD["fastmri"](tmp_path / "scan.h5"))
        assert broken(served.url, known, examples=4, seed_=1) == []
        assert "Traceback" not in served.log.read_text()
