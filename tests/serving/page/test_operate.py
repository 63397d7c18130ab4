"""docs/operate.md, the unit and the Dockerfile are held to the code."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
from dataclasses import fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import typer

from xcrossrec.cli import app
from xcrossrec.serving.server import _CLOSE_S
from xcrossrec.serving.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
UNIT = ROOT / "packaging" / "xcrossrec.service"
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def options_of(command: str) -> dict[str, Any]:
    """A command's long options."""
    return {name: option for option in COMMANDS[command].params for name in option.opts if name.startswith("--")}


def table_rows(after: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    part = DOCUMENT.split(f"\n## {after}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows][1:]


# ---- settings and metrics

NUMBERS = {f"XCROSSREC_{each.name.upper()}": each.default for each in fields(Settings) if each.type in ("int", "float")}
"""Variables that stand for a number, with its default."""


def variable_of(option: Any) -> str | None:
    """The environment variable of an option: of a number by its name, of others by what is declared."""
    named = f"XCROSSREC_{option.name.upper()}"
    return named if named in NUMBERS else option.envvar


def test_every_setting_of_serve_is_described_with_its_default() -> None:
    rows = {re.sub(r"`(--[a-z-]+).*", r"\1", row[0]): row for row in table_rows("Settings") if row[0]}
    options = options_of("serve")
    assert set(rows) == set(options) - {"--help"}
    for name, option in options.items():
        _, variable, default, _ = rows[name]
        assert variable.strip("`") == (variable_of(option) or ""), name
        if option.is_flag:
            assert default == "off", name
        elif option.required:
            assert default == "required", name
        elif (found := variable_of(option)) in NUMBERS:
            assert float(default) == NUMBERS[found], name
            assert f"[default: {default}]" in option.help
        elif option.default is None:
            assert default == "", name
        elif name == "--precision":
            assert default == f"`{option.default}`"
        else:
            assert default == option.default, name


def test_every_variable_is_described() -> None:
    from xcrossrec.serving.settings import ADMIN_KEYS, API_KEYS, SHORTEST_KEY

    texts = {option.envvar for option in options_of("serve").values() if option.envvar} | {API_KEYS, ADMIN_KEYS}
    assert set(re.findall(r"XCROSSREC_[A-Z_]+", DOCUMENT)) == {*NUMBERS, *texts}
    described = {row[1].strip("`"): row[2] for row in table_rows("Settings")}
    assert {name: float(described[name]) for name in NUMBERS} == NUMBERS
    assert f"at least {SHORTEST_KEY} characters" in DOCUMENT


def test_every_metric_is_described_with_its_labels() -> None:
    from xcrossrec.serving.metrics import Metrics

    metrics = Metrics()
    families = {
        (f"{family.name}_total" if family.type == "counter" else family.name): family
        for family in metrics.registry.collect()
    }
    rows = {row[0].strip("`"): row for row in table_rows("Metrics")}
    assert set(rows) == set(families)
    labels = {name: set(re.findall(r"`(\w+)`", row[1])) for name, row in rows.items()}
    for metric in vars(metrics).values():
        if hasattr(metric, "_labelnames"):
            (family,) = metric.describe()
            name = f"{family.name}_total" if family.type == "counter" else family.name
            assert labels[name] == set(metric._labelnames), name
    assert set(re.findall(r"xcrossrec_[a-z_]+", DOCUMENT)) <= set(rows)


def test_every_route_is_described() -> None:
    from xcrossrec.serving.routes import router

    named = set(re.findall(r"`(GET|POST|PUT|DELETE) ([^`]*)`", DOCUMENT))
    routes = {(method, route.path.replace("{name}", "NAME")) for route in router.routes for method in route.methods}  # type: ignore[attr-defined]
    assert named == routes


# ---- packaging


def test_the_units_command_is_one_of_ours() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT.read_text(encoding="utf-8"))
    service = unit["Service"]
    program, command, *words = shlex.split(service["ExecStart"])
    assert Path(program).name == "xcrossrec"
    assert {word for word in words if word.startswith("--")} <= set(options_of(command))
    assert "HUP" in service["ExecReload"]
    assert int(service["TimeoutStopSec"]) > Settings.drain_s + Settings.stop_s + _CLOSE_S
    assert (service["Restart"], service["RestartForceExitStatus"]) == ("on-failure", "SIGHUP"), "which is a clean end"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_reads_the_unit() -> None:
    done = subprocess.run(["systemd-analyze", "verify", str(UNIT)], capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if UNIT.name in line and "not executable" not in line]
    assert complaints == []


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile."""
    lines = [
        line for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines() if line[:1] not in ("", "#")
    ]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def test_the_dockerfile_is_sound() -> None:
    steps = dockerfile()
    known = {
        "FROM",
        "ARG",
        "WORKDIR",
        "COPY",
        "RUN",
        "ENV",
        "USER",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
    }
    assert {word for word, _ in steps} <= known
    bases = [rest for word, rest in steps if word == "FROM"]
    assert all(re.fullmatch(r"python:3\.\d+-slim( AS \w+)?", base) for base in bases)
    last = steps[max(n for n, (word, _) in enumerate(steps) if word == "FROM") :]
    words = [word for word, _ in last]
    assert dict(last)["USER"] not in ("root", "0")
    assert words.index("USER") > max(n for n, word in enumerate(words) if word in ("RUN", "COPY"))
    program, command = json.loads(dict(last)["ENTRYPOINT"])
    assert (program, command in COMMANDS) == ("xcrossrec", True)
    compile(json.loads(dict(last)["HEALTHCHECK"].partition("CMD ")[2])[-1], "HEALTHCHECK", "exec")
    variables = set(re.findall(r"(XCROSSREC_\w+)=", dict(last)["ENV"]))
    assert variables <= {variable_of(option) for option in options_of("serve").values()}


def test_the_dockerfile_copies_what_is_there() -> None:
    ignore = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    for word, rest in dockerfile():
        if word != "COPY" or rest.startswith("--from"):
            continue
        for source in rest.split()[:-1]:
            assert (ROOT / source).exists(), source
            kept = [not rule.startswith("!") for rule in ignore if fnmatch(source, rule.removeprefix("!"))]
            assert kept[-1] is False, f"{source} is ignored"
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    copied = " ".join(rest for word, rest in dockerfile() if word == "COPY")
    assert re.search(r'^readme = "(.*)"', project, flags=re.MULTILINE).group(1) in copied  # type: ignore[union-attr]
    assert re.search(r'^license-files = \["(.*)"\]', project, flags=re.MULTILINE).group(1) in copied  # type: ignore[union-attr]
