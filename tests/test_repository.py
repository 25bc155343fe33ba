"""Laws of the repository: layers, sizes of files, documents that agree with the code."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from udig_recon.core.acquisition import Modality
from udig_recon.core.cli.main import COMMANDS
from udig_recon.core.parameters import METHODS, PRESETS
from udig_recon.worker.settings import Settings

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
        "udig_recon.worker.cli.access",
    ],
)
def test_the_api_process_never_loads_torch(module: str) -> None:
    loaded = run("-c", f"import sys, {module}; print(*{{'torch', 'scipy.sparse'}} & set(sys.modules))")
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
    large = {"weights": 10 << 20, "pictures": 1 << 20}
    sizes = {path.relative_to(ROOT): path.stat().st_size for path in tracked()}
    assert {str(p): size for p, size in sizes.items() if size > large.get(p.parent.name, 500_000)} == {}
    assert [str(path) for path in sizes if path.suffix in (".pyc", ".pyo", ".so")] == []


def test_no_test_is_skipped_for_want_of_a_server() -> None:
    allowed = re.compile(r"bart|cuda|gpu|history of the repository", re.IGNORECASE)
    skips = [
        f"{path.name}: {line.strip()}"
        for path in (ROOT / "tests").rglob("*.py")
        if path != Path(__file__)
        for line in path.read_text().splitlines()
        if re.search(r"\bskip(if)?\(|importorskip|xfail", line) and not allowed.search(line)
    ]
    assert skips == []


def test_every_setting_stands_in_the_example_with_its_default() -> None:
    lines = re.findall(r"^#?([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    example = {name.lower(): value for name, value in lines if name not in FOR_COMPOSE}
    assert set(example) == set(Settings.model_fields)
    defaults = {name: field.default for name, field in Settings.model_fields.items() if field.default is not None}
    read = Settings.model_validate({name: example[name] for name in defaults})
    assert {name: getattr(read, name) for name in defaults} == defaults


def test_the_readme_lists_the_methods_as_they_are() -> None:
    assert between("README.md", "methods") == methods_table()


def test_the_documents_list_the_knobs_as_they_are() -> None:
    assert between("docs/methods.md", "knobs") == knob_tables()


def test_the_verbs_of_make_name_modules_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    benchmarks = re.search(r"^BENCHMARKS = (.*)$", makefile, re.MULTILINE)
    assert benchmarks
    named = {*re.findall(r"-m ([\w.]+)(?=\s)", makefile), *(f"benchmarks.{name}" for name in benchmarks[1].split())}
    assert {"benchmarks.demo", "pytest"} <= named
    assert [name for name in named if importlib.util.find_spec(name) is None] == []
    assert set(re.findall(r"/udig ([\w-]+)", makefile)) <= set(COMMANDS)


def between(file: str, mark: str) -> str:
    """What stands between `<!-- mark -->` and `<!-- /mark -->`."""
    found = re.search(rf"<!-- {mark} -->\n(.*?)<!-- /{mark} -->", (ROOT / file).read_text(), re.DOTALL)
    assert found, f"{file} has no part marked {mark}"
    return found[1].strip()


def methods_table() -> str:
    """Name, modalities and meaning of every method, in Markdown."""
    rows = [
        f"| `{name}` | {', '.join(map(str.upper, cls.modalities))} | {escaped(first_line(cls))} |"
        for name, cls in METHODS.items()
    ]
    return "\n".join(["| method | for | what it does |", "|---|---|---|", *rows])


def first_line(cls: type) -> str:
    assert cls.__doc__
    return cls.__doc__.strip().splitlines()[0]


def knob_tables() -> str:
    """Every knob of every method with symbol, default, bounds and meaning, then what the presets set, in Markdown."""
    parts = []
    for name, cls in METHODS.items():
        fields = {knob: field for knob, field in cls.model_fields.items() if knob != "method"}
        rows = [
            f"| `{knob}` | {symbol(field)} | {shown(field.default)} | {bounds(field)} | {escaped(field.description)} |"
            for knob, field in fields.items()
        ]
        table = ["| knob | symbol | default | allowed | meaning |", "|---|---|---|---|---|", *rows]
        parts.append("\n".join([f"## `{name}`", "", first_line(cls), *(["", *table] if rows else [])]))
    return "\n\n".join([*parts, preset_table()])


def preset_table() -> str:
    names = list(dict.fromkeys(name for name, _ in PRESETS))
    rows = []
    for name in names:
        for modality in Modality:
            settings = ", ".join(f"`{knob}` {shown(value)}" for knob, value in PRESETS[name, modality].items())
            rows.append(f"| `{name}` | {modality.upper()} | {settings or 'the defaults'} |")
    return "\n".join(["## Presets of `udig_dip`", "", "| preset | for | sets |", "|---|---|---|", *rows])


def escaped(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


def symbol(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra["symbol"]) if isinstance(extra, dict) and "symbol" in extra else ""


def shown(value: Any) -> str:
    return "none" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def bounds(field: FieldInfo) -> str:
    choices = getattr(field.annotation, "__args__", ()) if "Literal" in str(field.annotation) else ()
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    found = [
        f"{sign} {getattr(rule, name):g}"
        for rule in field.metadata
        for name, sign in signs.items()
        if hasattr(rule, name)
    ]
    return ", ".join(found)
