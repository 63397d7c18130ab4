"""What is run elsewhere is held to the code: commands, settings, probes, ports and metrics that it names are there."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from xcrossrec.cli import app
from xcrossrec.serving.metrics import Metrics
from xcrossrec.serving.routes import router
from xcrossrec.serving.server import _CLOSE_S
from xcrossrec.serving.settings import ADMIN_KEYS, API_KEYS, Settings

PACKAGING = Path(__file__).resolve().parents[1] / "packaging"
COMPOSE = yaml.safe_load((PACKAGING / "compose.yaml").read_text("utf-8"))
KUBERNETES = [
    part
    for path in (*sorted((PACKAGING / "kubernetes").glob("*.yaml")), PACKAGING / "ray.yaml")
    for part in yaml.safe_load_all(path.read_text())
]

IMAGE = "xcrossrec-scale"


def parts_of(tree: Any) -> Iterator[Any]:
    """A tree and everything in it."""
    yield tree
    if isinstance(tree, dict | list):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from parts_of(part)


def commands() -> Iterator[list[str]]:
    """Every command of xcrossrec that a file starts, as words."""
    for service in COMPOSE["services"].values():
        if service.get("image") == IMAGE:
            yield service["command"]
    for part in parts_of(KUBERNETES):
        if (
            isinstance(part, dict)
            and part.get("image") == "xcrossrec-scale"
            and "args" in part
            and "command" not in part
        ):
            yield part["args"]
        text = part if isinstance(part, str) else ""
        if found := re.search(r"xcrossrec (?=recommend)(.*)", text, flags=re.DOTALL):
            yield shlex.split(found[1].replace("$(date +%F)", "today"))


def test_every_command_is_one() -> None:
    found = [command for command in commands() if command]
    assert {command[0] for command in found} == {"serve", "catalog", "recommend-batch"}
    for command in found:
        parsed: Any = typer.main.get_command(app)
        while hasattr(parsed, "commands"):
            name, *command = command
            parsed = parsed.commands[name]
        parsed.make_context(name, command)


def test_every_setting_is_one() -> None:
    known = {f"XCROSSREC_{each.name.upper()}" for each in fields(Settings)} | {API_KEYS, ADMIN_KEYS}
    text = "".join(path.read_text("utf-8") for path in PACKAGING.rglob("*.yaml"))
    assert set(re.findall(r"XCROSSREC_\w+", text)) <= known


def test_nobody_takes_the_server_that_makes_the_database_for_the_database() -> None:
    """While the image makes it, a server for its own scripts answers at the socket, and then goes again."""
    (check,) = [
        each["healthcheck"]["test"][-1].split() for name, each in COMPOSE["services"].items() if name == "database"
    ]
    (probe,) = [part["exec"]["command"] for part in parts_of(KUBERNETES) if isinstance(part, dict) and "exec" in part]
    for command in (check, probe):
        assert command[:3] == ["pg_isready", "-h", "127.0.0.1"]


def test_every_night_has_answers_of_its_own_or_replaces_the_last_ones() -> None:
    nights = [command for command in commands() if command[0] == "recommend-batch"]
    assert len(nights) == 3
    for command in nights:
        assert "--overwrite" in command or "today" in command[command.index("--out") + 1]


def test_the_image_has_what_the_probes_of_kuberay_call() -> None:
    assert re.search(r"^RUN .*apt-get install .*\bwget\b", (PACKAGING / "Dockerfile").read_text("utf-8"), re.MULTILINE)


def test_every_promised_version_is_one_that_was_tried() -> None:
    """What ``make lowest`` installs is the lowest that pyproject.toml allows; of torch only the pinned one is tried."""
    pinned = (PACKAGING.parent / "constraints-lowest.txt").read_text("utf-8")
    tried = dict(re.findall(r"^([\w-]+)==(\S+)$", pinned, re.MULTILINE))
    project = tomllib.loads((PACKAGING.parent / "pyproject.toml").read_text("utf-8"))
    parts = project["project"]
    promised = [*parts["dependencies"], *itertools.chain.from_iterable(parts["optional-dependencies"].values())]
    bounds = {found[1]: found[2] for each in promised if (found := re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", each))}
    assert len(bounds) > 20
    untried = {name: low for name, low in bounds.items() if not f"{tried[name]}.".startswith(f"{low}.")}
    assert untried == {"torch": "2.6"}
    assert all(each.startswith("/") for each in project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])


@pytest.mark.parametrize("name", ["Dockerfile", "packaging/Dockerfile"])
def test_what_torch_needs_is_not_looked_for_at_an_index_of_torch_alone(name: str) -> None:
    """It has few versions of other packages, and constraints.txt pins one of each."""
    text = (PACKAGING.parent / name).read_text("utf-8")
    (line,) = re.findall(r".*--index-url.*", text)
    assert '--no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch' in line
    assert re.search(r'^ARG TORCH_INDEX=""$', text, re.MULTILINE)
    assert text.index(line) < text.index("[serve,postgres")  # which brings what torch needs


def test_the_images_user_has_a_home_to_write_to_and_every_pod_room_there() -> None:
    """Where Ray puts its key; the user's own has no folder, and some roots are read-only."""
    assert re.search(r"^ENV .*\bHOME=/tmp$", (PACKAGING / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    pods = [part for part in parts_of(KUBERNETES) if isinstance(part, dict) and part.get("image") == IMAGE]
    assert len(pods) >= 3
    for pod in pods:
        assert "/tmp" in [mount["mountPath"] for mount in pod["volumeMounts"]]


def test_nothing_may_more_than_it_must() -> None:
    """No rights that grow, no capabilities, no token of the cluster; keys where they are checked alone."""
    pods = [part for part in parts_of(KUBERNETES) if isinstance(part, dict) and "containers" in part]
    assert len(pods) == 4 + 1  # that of the workers is the head's
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert (
            pod["securityContext"].items()
            >= {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}.items()
        )
        (container,) = pod["containers"]
        wanted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["securityContext"].items() >= wanted.items()
        assert ("envFrom" in container) == (pod is deployment())
    for name in ("service", "load", "night"):
        service = COMPOSE["services"][name]
        assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
        assert ("XCROSSREC_ADMIN_KEYS" in service["environment"]) == (name == "service")


def test_only_what_asks_the_database_reaches_it() -> None:
    (policy,) = [part["spec"] for part in KUBERNETES if part["kind"] == "NetworkPolicy"]
    (rule,) = policy["ingress"]
    (labels,) = rule["from"][0]["podSelector"]["matchExpressions"]
    askers = [
        part["metadata"]["labels"][labels["key"]]
        for part in parts_of(KUBERNETES)
        if isinstance(part, dict) and any(each["image"] == IMAGE for each in part.get("spec", {}).get("containers", []))
    ]
    assert set(askers) == set(labels["values"])
    (database,) = [part for part in KUBERNETES if part["kind"] == "StatefulSet"]
    assert policy["podSelector"] == database["spec"]["selector"]
    (container,) = database["spec"]["template"]["spec"]["containers"]
    assert rule["ports"] == [{"port": container["ports"][0]["name"]}]


def deployment() -> Any:
    (found,) = [part for part in KUBERNETES if part["kind"] == "Deployment"]
    return found["spec"]["template"]["spec"]


def test_probes_ask_what_is_served_and_nobody_is_cut_off() -> None:
    routes, (container,) = {route.path for route in router.routes}, deployment()["containers"]
    probes = [container[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert {probe["path"] for probe in probes} == {"/healthz", "/readyz"} <= routes
    (port,) = container["ports"]
    assert {probe["port"] for probe in probes} == {port["name"]}
    assert port["containerPort"] == Settings.port
    ready = container["readinessProbe"]
    assert ready["timeoutSeconds"] > 1 < ready["failureThreshold"], "one slow second is every replica's at once"
    drain = float(next(each["value"] for each in container["env"] if each["name"] == "XCROSSREC_DRAIN_S"))
    assert deployment()["terminationGracePeriodSeconds"] > drain + Settings.stop_s + _CLOSE_S
    service = COMPOSE["services"]["service"]
    assert float(service["stop_grace_period"].rstrip("s")) > drain + Settings.stop_s + _CLOSE_S
    assert float(service["environment"]["XCROSSREC_DRAIN_S"]) == drain
    assert f":{Settings.port}/readyz" in service["healthcheck"]["test"][-1]


def test_selectors_volumes_and_mounts_belong_together() -> None:
    labels = {
        part["metadata"]["name"]: part["spec"]["template"]["metadata"]["labels"]
        for part in KUBERNETES
        if part["kind"] in ("Deployment", "StatefulSet")
    }
    for part in KUBERNETES:
        if part["kind"] in ("Service", "PodDisruptionBudget", "Deployment", "StatefulSet"):
            selector = part["spec"]["selector"]
            assert selector.get("matchLabels", selector) == labels[part["metadata"]["name"]]
    claims = {part["metadata"]["name"] for part in KUBERNETES if part["kind"] == "PersistentVolumeClaim"}
    for whole in KUBERNETES:
        own = {claim["metadata"]["name"] for claim in whole.get("spec", {}).get("volumeClaimTemplates", [])}
        for part in parts_of(whole):
            if isinstance(part, dict) and "containers" in part:
                there = {volume["name"] for volume in part.get("volumes", [])} | own
                assert {mount["name"] for each in part["containers"] for mount in each["volumeMounts"]} <= there
            if isinstance(part, dict) and "claimName" in part:
                assert part["claimName"] in claims


def test_the_clusters_ray_is_that_of_the_image() -> None:
    pinned = re.search(r"^ray==(.+)$", (PACKAGING.parent / "constraints.txt").read_text("utf-8"), flags=re.MULTILINE)
    assert pinned is not None
    (job,) = [part for part in KUBERNETES if part["kind"] == "RayJob"]
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pinned[1]


def test_kubernetes_takes_the_manifests() -> None:
    validate = pytest.importorskip(
        "kubernetes_validate",
        reason="SCHEMAS ABSENT: the manifests were not validated; pip install kubernetes-validate",
    ).validate
    templates = [
        part["template"]
        for each in KUBERNETES
        for part in parts_of(each)
        if "Ray" in each["kind"] and isinstance(part, dict) and "template" in part
    ]
    assert len(templates) == 2
    known = [part for part in KUBERNETES if part["apiVersion"] != "ray.io/v1"]
    pods = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, **each} for each in templates]
    for part in (*known, *pods):
        validate(part, "1.33", strict=True)


# ---- the dashboard


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    exported = {family.name: family for family in Metrics().registry.collect()}
    dashboard = json.loads((PACKAGING / "grafana.json").read_text("utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = set()
    for query in queries:
        for name in re.findall(r"\bxcrossrec_\w+", query):
            family = exported.get(name) or exported[re.sub(r"_(total|bucket|sum|count)$", "", name)]
            suffix = name.removeprefix(family.name)
            assert suffix in {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(
                family.type, ("",)
            )
            asked.add(family.name)
    assert asked == set(exported), "every metric is shown, and no other asked for"


def test_the_dashboard_groups_by_labels_that_there_are() -> None:
    collectors = {each._name: each for each in vars(Metrics()).values() if hasattr(each, "_labelnames")}
    dashboard = json.loads((PACKAGING / "grafana.json").read_text("utf-8"))
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            query = target["expr"]
            names = [re.sub(r"_(total|bucket|sum|count)$", "", name) for name in re.findall(r"xcrossrec_\w+", query)]
            used = {label.strip() for group in re.findall(r"by \((.*?)\)", query) for label in group.split(",")}
            used |= set(re.findall(r"(\w+)=~?\"", query)) | set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            for name in names:
                if name != "xcrossrec_build_info":
                    assert used <= {*collectors[name]._labelnames, "le", "job"}, query
