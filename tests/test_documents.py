"""Documents say what the code says: `make docs` writes their generated parts, and here they are only compared."""

import importlib.util
import re
from pathlib import Path

import pytest

from docs.generate import CLIENT_COMMANDS, PARTS, replace_part
from udig_recon.core.cli.main import COMMANDS
from udig_recon.worker.settings import Settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
IMAGES = {"POSTGRES_IMAGE", "REDIS_IMAGE", "CADDY_IMAGE", "PYTHON_IMAGE", "CONDA_IMAGE"}
FOR_COMPOSE = {"COMPOSE_PROFILES", "TLS_FOLDER", "TLS_PORT", "FRONT_NETWORK", "WORKER_MEMORY", "MRD_ADDRESS", *IMAGES}


@pytest.mark.parametrize(("file", "mark"), PARTS)
def test_a_generated_part_is_up_to_date(file: str, mark: str) -> None:
    text = (ROOT / file).read_text()
    assert replace_part(text, mark, PARTS[file, mark]()) == text, f"{file}: make docs writes <!-- {mark} --> anew"


def test_every_setting_stands_in_the_example_with_its_default() -> None:
    lines = re.findall(r"^#?([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert len(lines) == len(dict(lines)), "a setting stands there twice"
    example = {name.lower(): value for name, value in lines if name not in FOR_COMPOSE}
    assert set(example) == set(Settings.model_fields)
    defaults = {name: field.default for name, field in Settings.model_fields.items() if field.default is not None}
    read = Settings.model_validate({name: example[name] for name in defaults})
    assert {name: getattr(read, name) for name in defaults} == defaults


def test_every_command_in_a_document_exists() -> None:
    typed = re.compile(r"(?:`|^|^    |run --rm \w+ |exec api )udig ([a-z][\w-]*)", re.MULTILINE)
    named = [(path.name, name) for path in DOCUMENTS for name in typed.findall(path.read_text())]
    of_client = {command.name for command in CLIENT_COMMANDS}
    assert {"recon", "compare", "keys", "postgres", "migrate", "submit"} <= {name for _, name in named}
    assert [(file, name) for file, name in named if name not in COMMANDS and name not in of_client] == []


def test_the_architecture_names_every_folder_and_none_that_is_not_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`((?:core|worker|api|client|tests|benchmarks)/[\w./]+)`", text))
    assert {path for path in named if not (ROOT / path).exists()} == set()
    parts = [init.parent for package in ("core", "worker", "api") for init in (ROOT / package).glob("*/__init__.py")]
    folders = {part.relative_to(ROOT).as_posix() for part in parts}
    assert {folder for folder in folders if not any(f"{path}/".startswith(f"{folder}/") for path in named)} == set()


def test_the_verbs_of_make_name_programs_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    benchmarks = re.search(r"^BENCHMARKS = (.*)$", makefile, re.MULTILINE)
    assert benchmarks
    named = {*re.findall(r"-m ([\w.]+)(?=\s)", makefile), *(f"benchmarks.{name}" for name in benchmarks[1].split())}
    assert {"benchmarks.demo", "docs.generate", "pytest"} <= named
    assert [name for name in named if importlib.util.find_spec(name) is None] == []
    assert set(re.findall(r"/udig ([\w-]+)", makefile)) <= set(COMMANDS)


def test_every_verb_of_make_is_told_by_help_and_by_no_file_of_its_name() -> None:
    makefile = (ROOT / "Makefile").read_text()
    verbs = re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE)
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony.split() == verbs
