"""Laws of the repository: layers, sizes of files, documents that agree with the code."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
PACKAGES = ("core", "worker", "api")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
IMAGES = {"POSTGRES_IMAGE", "REDIS_IMAGE", "CADDY_IMAGE", "PYTHON_IMAGE", "CONDA_IMAGE"}
FOR_COMPOSE = {"COMPOSE_PROFILES", "TLS_FOLDER", "TLS_PORT", "FRONT_NETWORK", "WORKER_MEMORY", *IMAGES}


def tracked() -> list[Path]:
    """The files of the project, without what is made from them."""
    made = re.compile(r"/(\.git|\.venv|\.data|[^/]*cache[^/]*|[^/]+\.egg-info|build|dist|demo-output)/")
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
        return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and not made.search(f"/{path.relative_to(ROOT)}")]


def trees() -> list[tuple[Path, ast.Module]]:
    return [(path.relative_to(ROOT), ast.parse(path.read_text())) for path in MODULES]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)


def test_imports_go_one_way() -> None:
    script = str(Path(sys.executable).with_name("lint-imports"))
    linted = run(script, "--no-cache")
    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize(
    "module",
    [
        "udig_recon.api.app",
        "udig_recon.api.main",
        "udig_recon.worker.database.migrate",
        "udig_recon.worker.cli.keys",
        "udig_recon.worker.cli.tenants",
        "udig_recon.worker.cli.audit",
    ],
)
def test_the_api_process_never_loads_torch(module: str) -> None:
    loaded = run("-c", f"import sys, {module}; print(*{{'torch', 'scipy', 'pydicom'}} & set(sys.modules))")
    assert (loaded.returncode, loaded.stdout.split()) == (0, []), loaded.stderr


def test_the_engine_knows_no_environment_and_does_not_log() -> None:
    words = re.compile(r"os\.(environ|getenv)|^\s*(import|from) (logging|structlog)\b", re.MULTILINE)
    guilty = [path.name for path in MODULES if "core" in path.parts and words.search(path.read_text())]
    assert not guilty


def test_no_module_is_a_drawer_for_anything() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc", "base_utils"}
    assert [str(path) for path in ROOT.rglob("*.py") if path.stem in drawers and ".venv" not in path.parts] == []


def test_everything_public_in_the_engine_says_what_it_is() -> None:
    silent = [
        f"{path}:{node.name}"
        for path, tree in trees()
        if path.parts[0] == "core"
        for scope in (tree, *(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_"))
        for node in scope.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


def test_no_file_is_large_and_none_is_made() -> None:
    large = {"weights": 10 << 20, "pictures": 1 << 20, "vendor": 3 << 20}
    sizes = {path.relative_to(ROOT): path.stat().st_size for path in tracked()}
    assert {str(p): size for p, size in sizes.items() if size > large.get(p.parent.name, 500_000)} == {}
    assert [str(path) for path in sizes if path.suffix in (".pyc", ".pyo", ".so")] == []


def test_no_test_is_skipped_for_want_of_a_server() -> None:
    programs = (
        "bart|astra|chromium|dicom3tools|orthanc|ismrmrd-tools|nodejs|helm|systemd|openssl|slurm|cuda|gpu|pgbouncer"
    )
    allowed = re.compile(rf"{programs}|history of the repository|newest migration|network namespaces", re.IGNORECASE)
    skips = [
        f"{path.name}: {line.strip()}"
        for path in (ROOT / "tests").rglob("*.py")
        if path != Path(__file__)
        for line in path.read_text().splitlines()
        if re.search(r"\bskip(if)?\(|importorskip|xfail", line) and not allowed.search(line)
    ]
    assert skips == []
