"""The Helm chart, held to the code, to two versions of Kubernetes and to the compose file without a cluster."""

import json
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from starlette.routing import Route

from docs.generate import chart_settings
from tests.support.helm import helm
from udig_recon.api.main import GRACE_SECONDS
from udig_recon.api.pages import list_routes, login_routes, routes, static_routes
from udig_recon.api.system import health
from udig_recon.core.cli.main import COMMANDS
from udig_recon.worker.database.tables import OPEN
from udig_recon.worker.runtime.maintenance import SHUTDOWN_SECONDS
from udig_recon.worker.runtime.process import LAST_STEP_SECONDS
from udig_recon.worker.settings import Settings

ROOT = Path(__file__).parents[1]
DEPLOYMENT = ROOT / "docs" / "deployment"
CHART = DEPLOYMENT / "chart"
EXAMPLES = sorted(path.name for path in (CHART / "ci").glob("*-values.yaml"))
API_PATHS = {"/v1", "/docs", "/redoc", "/openapi.json"}
VERSIONS = ("1.31.0", "1.37.0")
Manifest = dict[str, Any]

TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}


def exactly(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": [*properties], "properties": properties}


TRIGGER = {
    "type": "object",
    "required": ["type", "metadata"],
    "additionalProperties": False,
    "properties": {
        "type": {"enum": ["postgresql", "prometheus"]},
        "metadata": {"type": "object", "additionalProperties": TEXT},
        "authenticationRef": exactly(name=TEXT),
    },
}
# The fields that the chart uses of kinds that Kubernetes itself does not have.
OTHER_KINDS = {
    "ScaledObject": exactly(
        scaleTargetRef=exactly(apiVersion=TEXT, kind=TEXT, name=TEXT),
        minReplicaCount=COUNT,
        maxReplicaCount=COUNT,
        pollingInterval=COUNT,
        cooldownPeriod=COUNT,
        advanced=exactly(
            horizontalPodAutoscalerConfig=exactly(
                behavior=exactly(scaleDown=exactly(stabilizationWindowSeconds=COUNT | {"maximum": 3600}))
            )
        ),
        triggers={"type": "array", "minItems": 1, "items": TRIGGER},
    ),
    "TriggerAuthentication": exactly(
        secretTargetRef={"type": "array", "items": exactly(parameter=TEXT, name=TEXT, key=TEXT)}
    ),
    "ServiceMonitor": exactly(
        selector=exactly(matchLabels={"type": "object"}),
        endpoints={
            "type": "array",
            "items": exactly(port=TEXT, path=TEXT, interval=TEXT, relabelings={"type": "array"}),
        },
    ),
    "PrometheusRule": exactly(groups={"type": "array", "minItems": 1}),
}


def run_helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm(), *arguments], capture_output=True, text=True)


@cache
def rendered(example: str, *more: str) -> tuple[Manifest, ...]:
    """The objects of a release with the values of an example."""
    ran = run_helm("template", "recon", str(CHART), "--values", str(CHART / "ci" / example), *more)
    assert ran.returncode == 0, ran.stderr
    return tuple(filter(None, yaml.safe_load_all(ran.stdout)))


def objects(example: str, kind: str) -> list[Manifest]:
    return [each for each in rendered(example) if each["kind"] == kind]


def pods(example: str) -> dict[str, Manifest]:
    """Name -> specification of every pod."""
    owners = [each for each in rendered(example) if each["kind"] in ("Deployment", "Job")]
    return {owner["metadata"]["name"]: owner["spec"]["template"]["spec"] for owner in owners}


def variables(pod: Manifest) -> dict[str, str]:
    (container,) = pod["containers"]
    names = [each["name"] for each in container["env"]]
    assert len(names) == len(set(names))
    return {each["name"]: each["value"] for each in container["env"]}


@pytest.mark.parametrize("example", EXAMPLES)
def test_helm_finds_nothing_wrong(example: str) -> None:
    linted = run_helm("lint", "--strict", str(CHART), "--values", str(CHART / "ci" / example))
    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_object_is_one_of_both_versions_of_kubernetes(example: str) -> None:
    for manifest in rendered(example):
        if manifest["kind"] in OTHER_KINDS:
            assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
            jsonschema.validate(manifest["spec"], OTHER_KINDS[manifest["kind"]])
        else:
            for version in VERSIONS:
                kubernetes_validate.validate(manifest, version, strict=True)


def test_a_misspelt_field_would_be_found() -> None:
    (deployment,) = (each for each in objects("minimal-values.yaml", "Deployment") if "api" in each["metadata"]["name"])
    wrong = {**deployment, "spec": {**deployment["spec"], "replica": 2}}
    for version in VERSIONS:
        with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
            kubernetes_validate.validate(wrong, version, strict=True)


def test_together_the_examples_render_every_kind() -> None:
    kinds = {manifest["kind"] for example in EXAMPLES for manifest in rendered(example)}
    assert {
        *OTHER_KINDS,
        "Deployment",
        "Job",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "HorizontalPodAutoscaler",
    } <= kinds
    assert {"Ingress", "Service", "ServiceAccount", "ConfigMap"} <= kinds
    # Servers and secrets are brought, never made.
    assert not kinds & {"Secret", "StatefulSet", "PersistentVolumeClaim"}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ("worker.replica=2", "replica"),
        ("workers.gpu.gpus=2", "gpus"),
        ("workers.gpu.gpu.count=2", "count"),
        ("settings.MAX_UPLOAD_BYTE=1", "MAX_UPLOAD_BYTE"),
        ("settings.DATABASE_URL=postgresql://a:b@c/d", "DATABASE_URL"),
        ("settings.DIRECT_DATABASE_URL=postgresql://a:b@c/d", "DIRECT_DATABASE_URL"),
        ("settings.DEVICE=cpu", "DEVICE"),
        ("storage.existingClaim=both", "storage"),
        ("storage.dataStore=", "storage"),
        ("ingress.enabled=true", "ingress"),
        ("autoscaling.enabled=true,autoscaling.trigger=prometheus", "serverAddress"),
        ("api.scratch=32", "scratch"),
        ("worker.device=gpu", "device"),
        ("mrdStream.enabled=true", "mrdStream"),
        ("seccompProfile.type=Unconfined", "seccompProfile"),
        ("networkPolicy.postgres.cidrs={10.0.0.1}", "cidrs"),
        ("images.api.digest=latest", "digest"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(values: str, named: str) -> None:
    example = str(CHART / "ci" / "minimal-values.yaml")
    refused = run_helm("template", "recon", str(CHART), "--values", example, "--set", values)
    assert refused.returncode != 0
    assert named in refused.stderr


def test_every_object_of_the_schema_is_closed() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def closed(part: Any) -> bool:
        if isinstance(part, list):
            return all(map(closed, part))
        if not isinstance(part, dict):
            return True
        if part.get("type") == "object" and "properties" in part and part.get("additionalProperties") is not False:
            return False
        return all(map(closed, part.values()))

    assert closed(schema)
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(values) == set(schema["properties"]) - {"global"}


def test_settings_of_the_values_are_those_of_the_service() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    _, listed = schema["properties"]["settings"]["propertyNames"]["anyOf"]
    assert listed["enum"] == chart_settings(), "make docs writes them anew"


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_pod_is_confined(example: str) -> None:
    for name, pod in pods(example).items():
        assert pod["automountServiceAccountToken"] is False, name
        security = pod["securityContext"]
        assert (security["runAsNonRoot"], security["runAsUser"], security["runAsGroup"]) == (True, 10001, 10001)
        assert security["seccompProfile"]["type"] in ("RuntimeDefault", "Localhost")
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        asked, most = container["resources"].get("requests", {}), container["resources"]["limits"]
        assert "memory" not in asked or name.endswith("migrate"), "what a pool raises or lowers is the limit alone"
        assert most.keys() >= {"memory"}
        empty = [volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume]
        assert empty
        assert all(volume["sizeLimit"] for volume in empty)
        assert not [volume for volume in pod["volumes"] if "hostPath" in volume]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_variable_of_a_pod_is_a_setting_and_every_secret_a_file_of_who_needs_it(example: str) -> None:
    for name, pod in pods(example).items():
        given = variables(pod)
        known = {each.lower().removesuffix("_file") for each in given}
        assert known <= set(Settings.model_fields), name
        plain = {key.lower(): value for key, value in given.items() if not key.endswith("_FILE")}
        Settings.model_validate(plain | {"data": ROOT / "none", "priors": None})
        (container,) = pod["containers"]
        program, command = container["command"]
        assert program == "udig"
        assert command in COMMANDS
        files = {volume["name"]: volume["secret"].get("items", []) for volume in pod["volumes"] if "secret" in volume}
        keys = {item["key"] for item in files["secrets"]}
        assert keys == {key.lower()[:-5] for key in given if key.endswith("_FILE")} - {"destinations"}
        assert ("migration_database_url" in keys) == (command == "migrate")
        assert ("audit_key" in keys) == (command == "api")
        assert ("mrd_key" in keys) == (command == "mrd-stream")
        assert "destinations" not in files or command in ("api", "mrd-stream")
        assert "webhook_secret" not in keys or command == "api"
        assert "direct_database_url" not in keys or command in ("api", "mrd-stream")


def test_the_secret_has_the_keys_that_the_script_of_compose_makes() -> None:
    script = (DEPLOYMENT / "make-secrets").read_text()
    wanted = {
        item["key"]
        for pod in pods("gpu-values.yaml").values()
        for volume in pod["volumes"]
        if volume["name"] == "secrets"
        for item in volume["secret"]["items"]
    }
    made = {*re.findall(r"^make (\w+)", script, re.MULTILINE), "audit_key"}
    urls = {"database_url", "migration_database_url", "redis_url"}
    assert wanted == {*urls, "direct_database_url", "audit_key", "webhook_secret", "mrd_key"}
    # A key of the API is made once that runs; compose has no PgBouncer.
    assert wanted - {"mrd_key", "direct_database_url"} <= made


def test_chart_and_images_bear_the_version_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)
    images = {pod["containers"][0]["image"] for pod in pods("minimal-values.yaml").values()}
    assert images == {f"udig-recon-api:{version}", f"udig-recon-worker:{version}"}
    (pinned,) = (pod for name, pod in pods("gpu-values.yaml").items() if name.endswith("gpu"))
    assert re.fullmatch(
        r"registry\.example\.org/imaging/udig-recon-worker@sha256:[0-9a-f]{64}", pinned["containers"][0]["image"]
    )


def test_probes_ask_what_a_restart_or_another_pod_would_mend() -> None:
    found = pods("minimal-values.yaml")
    (api,) = found["recon-api"]["containers"]
    paths = {name: api[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths["startupProbe"] == paths["livenessProbe"] == "/healthz"
    # Scaled to zero workers the API must be asked all the same: nothing else opens jobs.
    assert "exclude=workers" in paths["readinessProbe"]
    (worker,) = found["recon-worker-gpu"]["containers"]
    assert worker["livenessProbe"]["exec"]["command"] == ["udig", "health", "--unless-database-is-away"]


def test_a_pod_has_the_time_that_its_end_needs() -> None:
    found = pods("minimal-values.yaml")
    (api,) = found["recon-api"]["containers"]
    pause = int(api["lifecycle"]["preStop"]["exec"]["command"][1])
    assert found["recon-api"]["terminationGracePeriodSeconds"] > pause + GRACE_SECONDS
    assert found["recon-worker-gpu"]["terminationGracePeriodSeconds"] > SHUTDOWN_SECONDS + LAST_STEP_SECONDS


def test_a_pool_has_one_device_a_worker() -> None:
    found = {name: pod["containers"][0] for name, pod in pods("gpu-values.yaml").items() if "worker" in name}
    devices = {
        name.removeprefix("recon-worker-"): {key: n for key, n in each["resources"]["limits"].items() if "/" in key}
        for name, each in found.items()
    }
    assert devices == {"gpu": {"nvidia.com/gpu": 1}, "mig": {"nvidia.com/mig-1g.10gb": 1}, "cpu": {}}
    assert {name for name in pods("claim-values.yaml") if "worker" in name} == {"recon-worker-cpu"}
    assert variables(pods("claim-values.yaml")["recon-worker-cpu"])["DEVICE"] == "cpu"


def test_files_lie_in_a_bucket_or_in_a_claim() -> None:
    for name, pod in pods("gpu-values.yaml").items():
        assert variables(pod).get("DATA_STORE") == (None if name.endswith("migrate") else "s3://udig/recon")
        (container,) = pod["containers"]
        assert ("envFrom" in container) == (not name.endswith("migrate"))
        assert ("PRIORS" in variables(pod)) == (not name.endswith("migrate"))
    for name, pod in pods("claim-values.yaml").items():
        claims = [volume for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
        assert len(claims) == (0 if name.endswith("migrate") else 1)
        assert "DATA_STORE" not in variables(pod)


def test_the_scratch_of_a_pod_holds_what_its_settings_let_lie_there() -> None:
    fields = Settings.model_fields
    cache, projectors, upload = (
        fields[name].default for name in ("cache_bytes", "max_projector_bytes", "max_upload_bytes")
    )
    sizes = {
        name: int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi")) << 30
        for name, pod in pods("minimal-values.yaml").items()
        for volume in pod["volumes"]
        if volume["name"] == "data" and not name.endswith("migrate")
    }
    # Beyond it the pod is evicted.
    assert sizes["recon-api"] > cache + 2 * upload
    assert sizes["recon-worker-gpu"] > cache + projectors + upload


@pytest.mark.parametrize("example", [name for name in EXAMPLES if name != "keda-prometheus-values.yaml"])
def test_pods_reach_what_the_networks_of_compose_let_them_reach(example: str) -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in objects(example, "NetworkPolicy")}
    scanners = {each["metadata"]["name"] for each in objects(example, "Deployment")} & {"recon-mrd-stream"}
    assert set(policies) == {"recon-worker", "recon-api", "recon-migrate", *scanners}
    assert all(policies[name]["ingress"][0]["from"] for name in scanners)
    for policy in policies.values():
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert all(rule.get("ports") or policy is policies["recon-api"] for rule in policy["egress"])
    assert not policies["recon-worker"].get("ingress")
    assert not policies["recon-migrate"].get("ingress")
    assert all(rule["from"] for rule in policies["recon-api"]["ingress"])
    selected = {policy["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for policy in policies.values()}
    labels = [
        each["spec"]["template"]["metadata"]["labels"]
        for each in rendered(example)
        if each["kind"] in ("Deployment", "Job")
    ]
    assert {each["app.kubernetes.io/component"] for each in labels} == selected


def test_behind_pgbouncer_who_listens_or_migrates_reaches_postgres_itself() -> None:
    policies = objects("gpu-values.yaml", "NetworkPolicy")
    reaching = {each["metadata"]["name"] for each in policies if "10.20.0.5/32" in json.dumps(each["spec"]["egress"])}
    assert reaching == {"recon-api", "recon-migrate", "recon-mrd-stream"}


def test_the_migration_and_its_network_come_before_everything_else() -> None:
    hooks = {
        (each["kind"], each["metadata"]["name"]): each["metadata"]["annotations"]
        for each in rendered("minimal-values.yaml")
        if "helm.sh/hook" in each["metadata"].get("annotations", {})
    }
    assert set(hooks) == {("Job", "recon-migrate"), ("NetworkPolicy", "recon-migrate")}
    assert {each["helm.sh/hook"] for each in hooks.values()} == {"pre-install,pre-upgrade"}
    weights = {kind: int(each["helm.sh/hook-weight"]) for (kind, _), each in hooks.items()}
    assert weights["NetworkPolicy"] < weights["Job"]
    # Nothing that Helm makes later may be named there.
    assert "serviceAccountName" not in pods("minimal-values.yaml")["recon-migrate"]


def test_an_ingress_shows_every_path_of_the_api_but_its_metrics() -> None:
    (ingress,) = objects("gpu-values.yaml", "Ingress")
    (rule,) = ingress["spec"]["rules"]
    shown = {path["path"] for path in rule["http"]["paths"]}
    routers = (routes.router, list_routes.router, login_routes.router, static_routes.router, health.router)
    paths = [route.path for router in routers for route in router.routes if isinstance(route, Route)]
    assert shown == {f"/{path.split('/')[1]}" for path in paths} - {"/metrics"} | API_PATHS
    assert [path["path"] for path in rule["http"]["paths"] if path["pathType"] == "Exact"] == ["/"]
    assert ingress["spec"]["tls"]


def test_rules_and_dashboard_are_those_of_the_documents() -> None:
    (rules,) = objects("gpu-values.yaml", "PrometheusRule")
    assert rules["spec"] == yaml.safe_load((ROOT / "docs" / "monitoring" / "alerts.yml").read_text())
    (dashboard,) = objects("gpu-values.yaml", "ConfigMap")
    (text,) = dashboard["data"].values()
    assert json.loads(text) == json.loads((ROOT / "docs" / "monitoring" / "dashboard.json").read_text())
    (monitor,) = objects("gpu-values.yaml", "ServiceMonitor")
    (endpoint,) = monitor["spec"]["endpoints"]
    named = set(re.findall(r'job="([^"]+)"', json.dumps(rules).replace("\\", "")))
    assert {each["replacement"] for each in endpoint["relabelings"]} == named


def test_workers_that_are_scaled_have_no_number_of_their_own() -> None:
    for example in ("keda-values.yaml", "keda-prometheus-values.yaml"):
        (scaled,) = objects(example, "ScaledObject")
        (target,) = (each for each in objects(example, "Deployment") if "worker" in each["metadata"]["name"])
        assert scaled["spec"]["scaleTargetRef"]["name"] == target["metadata"]["name"]
        assert "replicas" not in target["spec"]
    query = objects("keda-values.yaml", "ScaledObject")[0]["spec"]["triggers"][0]["metadata"]["query"]
    # Running slices too, or workers would be taken away at their work.
    assert set(re.findall(r"'(\w+)'", query)) == {str(status) for status in OPEN}
    (trigger,) = objects("keda-prometheus-values.yaml", "ScaledObject")[0]["spec"]["triggers"]
    # As in every query: the same values come from each process of the API.
    assert re.search(r"max by \(status\) \(udig_slices\{", trigger["metadata"]["query"])
