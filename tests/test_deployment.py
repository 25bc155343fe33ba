"""The compose file and the images, as far as they can be held to the code without running them."""

import re
import shutil
import subprocess
import tomllib
from importlib.metadata import distribution
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from udig_recon.core.cli.main import COMMANDS, EXTRAS
from udig_recon.worker.database.roles import OWNER, SERVICE
from udig_recon.worker.settings import Settings

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ["migrate", "api", "mrd-stream", "worker", "worker-cpu"]
DOCKERFILE = (ROOT / "Dockerfile.gpu").read_text()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([^\s#=]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}
IN_AN_IMAGE = {"python_version": "3.12", "python_full_version": "3.12.14", "extra": ""}

# What the compose specification knows of a service, as far as this file uses it: a misspelt key would be ignored.
KEYS = {
    *(
        "build",
        "cap_add",
        "cap_drop",
        "command",
        "depends_on",
        "deploy",
        "environment",
        "env_file",
        "healthcheck",
        "image",
    ),
    *("init", "logging", "mem_limit", "networks", "pids_limit", "ports", "profiles", "read_only", "restart"),
    *("secrets", "security_opt", "shm_size", "stop_grace_period", "tmpfs", "user", "volumes"),
}


def test_the_stack_is_whole() -> None:
    assert set(SERVICES) == {"postgres", "redis", "proxy", *OURS}
    assert {key for service in SERVICES.values() for key in service} <= KEYS


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_confined_and_comes_back(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["restart"] in ("unless-stopped", "on-failure:5")
    assert set(service["networks"]) <= set(COMPOSE["networks"])
    # Without capabilities nothing can drop root afterwards: whoever starts as root stays it.
    if name in OURS:
        assert users(service["build"]["target"])[-1] == "10001:10001"
    else:
        assert service["user"] == {"proxy": "10001:10001"}.get(name, name)
    assert service.get("cap_add", []) == {"proxy": ["NET_BIND_SERVICE"]}.get(name, [])


@pytest.mark.parametrize("image", [s["image"] for s in SERVICES.values()])
def test_images_are_pinned(image: str) -> None:
    default = re.fullmatch(r"\$\{\w+:-(.+)\}", image)
    assert re.fullmatch(r"[\w./-]+:\d+\.\d+[\w.-]*", default[1] if default else image)


def test_every_image_from_elsewhere_can_be_pinned_by_its_digest() -> None:
    script = (ROOT / "docs" / "deployment" / "pin-images").read_text()
    pinned = dict(re.findall(r"^pin (\w+) (\S+)$", script, re.MULTILINE))
    named = dict(re.findall(r"\$\{(\w+_IMAGE):-(\S+?)\}", (ROOT / "docker-compose.yml").read_text()))
    assert pinned == named
    bases = dict(re.findall(r"^ARG (\w+_IMAGE)=(\S+)$", DOCKERFILE, re.MULTILINE))
    assert bases.items() <= pinned.items()
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {f"${{{name}}}" for name in bases}
    for name in OURS:
        assert set(SERVICES[name]["build"]["args"]) == set(bases)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_a_limit_of_memory_and_of_processes(name: str) -> None:
    assert re.fullmatch(r"(\$\{\w+:-)?\d+[mg]\}?", SERVICES[name]["mem_limit"])
    assert SERVICES[name]["pids_limit"] > 0


def test_the_built_images_bear_the_version_of_the_project() -> None:
    for name in OURS:
        service = SERVICES[name]
        target = service["build"]["target"]
        assert service["image"] == f"udig-recon-{target}:{PROJECT['version']}"
        assert service["build"]["dockerfile"] == "Dockerfile.gpu"
        assert f" AS {target}\n" in DOCKERFILE


def settings_of(name: str) -> Settings:
    """The settings that a service of the compose file has, where .env says nothing."""
    given = SERVICES[name]["environment"]
    return Settings.model_validate(
        {
            key.lower(): re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))
            for key, value in given.items()
            if key[-5:] != "_FILE"
        }
    )


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting(name: str) -> None:
    given = SERVICES[name]["environment"]
    assert {variable.lower().removesuffix("_file") for variable in given} <= set(Settings.model_fields)
    settings_of(name)


@pytest.mark.parametrize("name", SERVICES)
def test_secrets_are_files_of_who_needs_them(name: str) -> None:
    service, made = SERVICES[name], set(COMPOSE["secrets"])
    assert set(service.get("secrets", [])) <= made
    text = yaml.safe_dump({**service, "secrets": []})
    assert set(re.findall(r"/run/secrets/([\w.]+\w)", text)) <= set(service.get("secrets", []))
    assert not re.search(r"\$\{\w*(PASSWORD|SECRET|KEY)", text)
    needed = {"worker": {"database_url", "redis_url"}, "worker-cpu": {"database_url", "redis_url"}}
    assert set(service.get("secrets", [])) == needed.get(name, set(service.get("secrets", [])))
    assert ("migration_database_url" in service.get("secrets", [])) == (name == "migrate")


def test_destinations_are_readable_where_jobs_are_made_and_nowhere_else() -> None:
    example = (ROOT / ".env.example").read_text()
    (file,) = re.findall(r"DESTINATIONS_FILE=(/\S+)", example)  # what .env then holds reaches each env_file
    for name in OURS:
        service = SERVICES[name]
        mounted = any(volume.endswith(f":{Path(file).parent}:ro") for volume in service.get("volumes", []))
        reads = "env_file" in service and service["environment"].get("DESTINATIONS_FILE") != ""
        assert mounted == reads == (name in ("api", "mrd-stream")), name


def test_the_script_makes_every_secret_once(tmp_path: Path) -> None:
    folder = tmp_path / "docs" / "deployment"
    folder.mkdir(parents=True)
    script = shutil.copy(ROOT / "docs" / "deployment" / "make-secrets", folder)
    runs = []
    for _ in range(2):
        subprocess.run([script], check=True)
        runs.append({path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()})
    first, made = runs
    assert made == first
    assert set(made) == set(COMPOSE["secrets"])
    assert len(set(made.values())) == len(made)
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    Settings.model_validate({name: made[name] for name in made if name in Settings.model_fields})
    assert made["service_password"] in made["database_url"]
    assert SERVICE in made["database_url"]
    assert OWNER in made["migration_database_url"]


def test_the_script_of_the_first_start_makes_the_roles_of_the_service() -> None:
    script = (ROOT / "docs" / "deployment" / "postgres-roles.sh").read_text()
    assert re.findall(r"^CREATE ROLE (\w+) LOGIN PASSWORD", script, re.MULTILINE) == [OWNER, SERVICE]
    assert f"CREATE DATABASE udig OWNER {OWNER};" in script


def test_documents_name_roles_that_the_compose_file_makes() -> None:
    text = "".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    named = re.findall(r"(?:psql|pg_dump|pg_restore) (?:-U |--username=)(\w+)", text)
    assert "postgres" in named
    assert set(named) <= {"postgres", OWNER, SERVICE}
    assert "POSTGRES_USER" not in SERVICES["postgres"]["environment"]


@pytest.mark.parametrize("name", OURS)
def test_every_service_runs_a_command_that_exists(name: str) -> None:
    program, command = SERVICES[name]["command"]
    assert program == "udig"
    assert command in COMMANDS


def test_what_the_compose_file_asks_of_its_reader_is_in_the_example() -> None:
    asked = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    example = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert asked <= example


def test_nothing_starts_before_the_migration_is_done() -> None:
    for name in ("api", "worker", "worker-cpu"):
        conditions = {other: need["condition"] for other, need in SERVICES[name]["depends_on"].items()}
        assert conditions == {
            "postgres": "service_healthy",
            "redis": "service_healthy",
            "migrate": "service_completed_successfully",
        }
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}


def test_health_is_checked() -> None:
    for name in ("postgres", "redis"):
        assert {"test", "interval", "timeout", "retries"} <= set(SERVICES[name]["healthcheck"])
    assert "/healthz" in stage("api").partition("HEALTHCHECK")[2]
    assert 'CMD ["udig", "health"]' in stage("worker").partition("HEALTHCHECK")[2]


def test_redis_forgets_nothing() -> None:
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[2::2], command[3::2], strict=True))
    assert command[0] == "redis-server"
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert "redis:/data" in SERVICES["redis"]["volumes"]


def test_servers_are_not_reachable_from_outside() -> None:
    assert COMPOSE["networks"]["inside"]["internal"] is True
    assert COMPOSE["networks"]["front"]["internal"] is True
    # The API sends webhooks and traces; who comes from outside meets the proxy alone.
    assert {name for name, service in SERVICES.items() if "outside" in service["networks"]} == {"api", "proxy"}
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"mrd-stream", "proxy"}
    # The door for scanners is opened by a profile of its own, and to this machine unless another address is named.
    assert SERVICES["mrd-stream"]["profiles"] == ["scanner"]
    assert SERVICES["mrd-stream"]["ports"] == ["${MRD_ADDRESS:-127.0.0.1}:9002:9002"]
    assert settings_of("mrd-stream").authenticates
    assert {name for name, service in SERVICES.items() if "front" in service["networks"]} == {"api", "proxy"}
    assert "inside" not in SERVICES["proxy"]["networks"]


def test_who_comes_from_outside_needs_tls_and_a_key() -> None:
    settings = settings_of("api")
    assert settings.authenticates
    caddyfile = (ROOT / "docs" / "deployment" / "Caddyfile").read_text()
    (port,) = (port.rpartition(":")[2] for port in SERVICES["proxy"]["ports"])
    assert re.search(rf"^https://:{port} {{\n\ttls /tls/certificate.pem /tls/key.pem\n", caddyfile, re.MULTILINE)
    assert f"reverse_proxy api:{settings.port} " in caddyfile
    assert re.search(r"^\t@inside path /metrics\n\trespond @inside 404\n", caddyfile, re.MULTILINE)
    assert any(volume.endswith(":/tls:ro") for volume in SERVICES["proxy"]["volumes"])


def test_with_a_bucket_workers_leave_the_internal_network_and_nothing_else_changes() -> None:
    text = (ROOT / "docs" / "deployment" / "compose.bucket.yml").read_text()
    more = yaml.safe_load(text)
    assert set(more) == {"services", "networks"}
    for name, service in more["services"].items():
        assert set(service) == {"networks"}
        assert set(service["networks"]) == {*SERVICES[name]["networks"], "bucket"}
    # The API is outside already; migrations need no bucket.
    needs = {name for name in OURS if "data:/data" in SERVICES[name].get("volumes", [])}
    assert set(more["services"]) == {name for name in needs if "outside" not in SERVICES[name]["networks"]}
    (named,) = re.findall(r"COMPOSE_FILE=docker-compose\.yml:(\S+),", text.replace("\n# ", " "))
    assert (ROOT / named).is_file()


def test_what_must_last_lies_in_a_named_volume() -> None:
    mounts = {volume for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert {mount.split(":")[0] for mount in mounts if not mount.endswith(":ro")} == set(COMPOSE["volumes"])
    # Since 18 the image of Postgres refuses a volume at the place where it used to be.
    assert SERVICES["postgres"]["volumes"][0] == "postgres:/var/lib/postgresql"
    for name in ("api", "worker", "worker-cpu"):
        assert SERVICES[name]["environment"]["DATA"] == "/data"
        assert [volume for volume in SERVICES[name]["volumes"] if not volume.endswith(":ro")] == ["data:/data"]


def test_workers_are_chosen_by_profile() -> None:
    assert SERVICES["worker"]["profiles"] == ["gpu"]
    assert SERVICES["worker-cpu"]["profiles"] == ["cpu"]
    (device,) = SERVICES["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert "deploy" not in SERVICES["worker-cpu"]


def test_the_api_image_needs_no_torch() -> None:
    names = needed_by(wanted_by("service"))
    assert {"fastapi", "celery", "sqlalchemy", "h5py"} <= names
    assert not {name for name in names if name.startswith(("torch", "nvidia", "triton", "safetensors"))}


@pytest.mark.parametrize(
    ("target", "extras"), [("api", ["service", "dicom"]), ("worker", ["service", "dicom", "engine", "gpu"])]
)
def test_an_image_installs_only_files_whose_hashes_are_known(target: str, extras: list[str]) -> None:
    lines = (ROOT / target / "requirements.txt").read_text().replace(" \\\n", "").splitlines()
    pattern = r"(\S+)==(\S+)(?: ; platform_machine != \"aarch64\")?(?: +--hash=sha256:[0-9a-f]{64})+"
    locked = dict(re.fullmatch(pattern, line).groups() for line in lines if line[0] != "#")
    wanted = [each for each in wanted_by(*extras) if each.name != "torch"]  # conda-forge's, for the worker
    names = {canonicalize_name(name): version for name, version in locked.items()}
    assert [str(each) for each in wanted if not each.specifier.contains(names[canonicalize_name(each.name)])] == []
    # What these bring along is of the versions that everything is tested with.
    assert {name: version for name, version in names.items() if PINS[name] != version} == {}
    assert set(names) >= needed_by(wanted)
    assert f"source={target}/requirements.txt,target=/requirements.txt" in stage(target)
    assert "--require-hashes --only-binary :all: -r /requirements.txt" in stage(target)


def test_metadata_has_ranges_and_the_constraints_a_tested_version_in_each() -> None:
    direct = wanted_by(*PROJECT["optional-dependencies"])
    assert [str(each) for each in direct if {rule.operator for rule in each.specifier} != {">=", "<"}] == []
    outside = {
        each.name: PINS[canonicalize_name(each.name)]
        for each in direct
        if not each.specifier.contains(PINS[canonicalize_name(each.name)])
    }
    assert outside == {}


def test_the_extra_all_is_every_extra_that_a_user_may_want() -> None:
    extras = PROJECT["optional-dependencies"]
    (everything,) = map(Requirement, extras["all"])
    assert everything.extras == set(extras) - {"all", "demo", "dev", "docs"}
    (told,) = re.findall(r"Extras bring the rest: (.*?)\.\s", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert set(re.findall(r"`(\w+)`", told)) == everything.extras | {"all"}


def test_a_wheel_has_the_templates_and_static_files_of_the_pages() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    pages = ROOT / "api" / "pages"
    taken = {path for pattern in setup["package-data"]["udig_recon.api.pages"] for path in pages.glob(pattern)}
    there = {path for folder in ("templates", "static") for path in (pages / folder).rglob("*") if path.is_file()}
    assert {pages / "templates" / "start.html", pages / "static" / "icon.svg"} <= there <= taken


def test_the_images_are_built_from_one_wheel_of_the_whole_package() -> None:
    assert {"core", "worker", "api", "migrations", "src"} <= set(
        re.findall(r"^COPY (\w+) \1$", DOCKERFILE, re.MULTILINE)
    )
    assert (ROOT / "src" / "udig_recon").resolve() == ROOT.resolve()
    assert {"!core/", "!worker/", "!api/", "!migrations/", "!src/"} <= set((ROOT / ".dockerignore").read_text().split())


def test_the_extra_of_a_missing_module_is_one_that_brings_it() -> None:
    extras = PROJECT["optional-dependencies"]
    for module, extra in EXTRAS.items():
        brought = {canonicalize_name(Requirement(text).name) for text in extras[extra]}
        assert canonicalize_name(module) in brought, (module, extra)


def wanted_by(*extras: str) -> list[Requirement]:
    """What the package itself and these extras ask for by name."""
    texts = chain(PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras))
    return [each for each in map(Requirement, texts) if each.name != PROJECT["name"]]


def needed_by(wanted: list[Requirement]) -> set[str]:
    """Names of these packages and of all that they bring along."""
    names: set[str] = set()
    asked = list(wanted)
    while asked:
        requirement = asked.pop()
        name = canonicalize_name(requirement.name)
        if name not in names and (requirement.marker is None or requirement.marker.evaluate(IN_AN_IMAGE)):
            names.add(name)
            asked += map(Requirement, distribution(name).requires or [])
    return names


def stage(target: str) -> str:
    """The lines of one build stage."""
    stages = re.split(r"^(?=FROM )", DOCKERFILE, flags=re.MULTILINE)
    return next(text for text in stages if text.split("\n")[0].endswith(f" AS {target}"))


def users(target: str) -> list[str]:
    return re.findall(r"^USER (\S+)$", stage(target), re.MULTILINE)
