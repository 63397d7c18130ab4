"""Training commands on tiny models: what they write, print and refuse."""

from __future__ import annotations

import errno
import json
import shlex
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from xcrossrec.cli import app
from xcrossrec.cli.train import Lora, Run, _print
from xcrossrec.config import Integration, rival_config, target_config
from xcrossrec.data import Domain, write_domain
from xcrossrec.exceptions import ConfigError
from xcrossrec.models import bundle
from xcrossrec.models.heads import Center
from xcrossrec.models.scorer import untrained
from xcrossrec.replacing import claimed
from xcrossrec.training import loop

RUNNER = CliRunner()
QUICK = ["--epochs", "1"]


def changes(config: Path, **given: int) -> dict[str, Any]:
    return Run(out=Path("out"), config=config, **given).changes()


@pytest.fixture
def domain_dir(tiny_domain: Domain, tmp_path: Path) -> Path:
    write_domain(tiny_domain, tmp_path / "tiny")
    return tmp_path / "tiny"


def invoke(*arguments: object) -> Any:
    return RUNNER.invoke(app, ["-q", "train", *map(str, arguments)], catch_exceptions=False)


def test_a_source_is_trained_and_can_be_loaded(
    domain_dir: Path, tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "adapter"
    done = invoke("source", domain_dir, "--out", out, "--base", tiny_models.base, "--rank", 2, "--json", *QUICK)
    assert done.exit_code == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["path"] == str(out)
    assert printed["users"] == 3
    manifest = bundle.read_bundle_manifest(out)
    assert (manifest["kind"], manifest["training"]["epochs"]) == ("adapter", 1)
    bundle.load(out)
    assert not (tmp_path / "runs").exists()
    again = invoke("source", domain_dir, "--out", out, "--base", tiny_models.base, *QUICK)
    assert again.exit_code == 2
    assert "exists: choose another place, or allow to overwrite it" in again.stderr


def test_a_target_integrates_its_sources(domain_dir: Path, tiny_models: Any, tmp_path: Path) -> None:
    sources = [argument for path in tiny_models.sources for argument in ("--source", path)]
    out = tmp_path / "model"
    options = ("--form", "xcross-all", "--budget", 2)
    done = invoke("target", domain_dir, *sources, "--out", out, *options, *QUICK)
    assert done.exit_code == 0, done.stderr
    assert f"{out}: " in done.stdout
    assert "trained on 2 users, 1 epochs" in done.stdout
    manifest = bundle.read_bundle_manifest(out)
    assert Integration(**manifest["integration"]) == Integration("xcross", top_layers=None)
    assert manifest["training"]["budget"] == 2
    assert [record["name"] for record in manifest["sources"]] == ["kitchen", "camping"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), Integration("merged")),
        (("--form", "xcross"), Integration("xcross", top_layers=2)),
        (("--form", "xcross-all"), Integration("xcross", top_layers=None)),
    ],
)
def test_by_default_the_sources_are_merged(
    domain_dir: Path, tiny_models: Any, tmp_path: Path, options: tuple[Any, ...], expected: Integration
) -> None:
    sources = [argument for path in tiny_models.sources for argument in ("--source", path)]
    done = invoke("target", domain_dir, *sources, "--out", tmp_path / "model", "--budget", 2, *options, *QUICK)
    assert done.exit_code == 0, done.stderr
    assert Integration(**bundle.read_bundle_manifest(tmp_path / "model")["integration"]) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--form", "lora", "--strict"), "--strict is of sources that are integrated"),
        (("--form", "lora"), "--form lora starts from the base, or from one --source, got 2: leave some out"),
        (("--integrator", "paper"), "--integrator is called --form now: write --form xcross"),
        (("--integrator", "merged"), "--integrator is called --form now: write --form merged"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    domain_dir: Path, tiny_models: Any, tmp_path: Path, options: tuple[Any, ...], message: str
) -> None:
    sources = [argument for path in tiny_models.sources for argument in ("--source", path)]
    done = invoke("target", domain_dir, *sources, "--out", tmp_path / "model", *options, *QUICK)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("form", ["merged", "lora"])
@pytest.mark.parametrize("budget", [(), ("--budget", 2)])
def test_rates_follow_the_number_of_users(
    domain_dir: Path,
    tiny_models: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    budget: tuple[Any, ...],
) -> None:
    monkeypatch.setattr("xcrossrec.config._RATES_OF_TARGET_LORA", {"dual": {0: 0.004, 3: 0.5}})
    monkeypatch.setattr("xcrossrec.config._RIVAL_RATES", {0: 0.001, 3: 0.5})
    sources = [argument for path in tiny_models.sources for argument in ("--source", path)]
    given = sources if form == "merged" else ("--base", tiny_models.base)
    done = invoke("target", domain_dir, "--form", form, *given, "--out", tmp_path / "model", *budget, *QUICK)
    assert done.exit_code == 0, done.stderr
    trained = bundle.read_bundle_manifest(tmp_path / "model")["training"]
    name, few = ("target_learning_rate", 0.004) if form == "merged" else ("learning_rate", 0.001)
    assert trained[name] == (few if budget else 0.5)


def test_the_rival_starts_from_the_base_or_an_adapter(domain_dir: Path, tiny_models: Any, tmp_path: Path) -> None:
    given = ("--form", "lora", "--source", tiny_models.sources[0])
    warm = invoke("target", domain_dir, *given, "--out", tmp_path / "warm", *QUICK)
    assert warm.exit_code == 0, warm.stderr
    assert bundle.read_bundle_manifest(tmp_path / "warm")["init"] == str(tiny_models.sources[0])
    assert rival_config().epochs == target_config().epochs
    assert rival_config(epochs=2).epochs == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["target", "DIR", "--source", "KITCHEN"], "integration needs at least 2 sources, got 1"),
        (["target", "DIR", "--source", "KITCHEN", "--source", "/nowhere"], "'/nowhere' does not exist"),
        (["source", "/nowhere"], "no domain folder at /nowhere"),
        (["source", "DIR", "--budget", "99"], "a budget of 99 users cannot be taken from 3"),
        (["source", "DIR", "--base", "/nowhere/base"], "base model '/nowhere/base' cannot be loaded"),
        (["target", "DIR", "--form", "lora", "--source", "/nowhere"], "'/nowhere' does not exist"),
        (["target", "DIR", "--form", "lora", "--resume"], "nothing to resume"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], message: str, domain_dir: Path, tiny_models: Any, tmp_path: Path
) -> None:
    places = {"DIR": domain_dir, "KITCHEN": tiny_models.sources[0], "CAMPING": tiny_models.sources[1]}
    given = [places.get(argument, argument) for argument in arguments]
    if ("lora" in arguments or arguments[0] == "source") and "--base" not in arguments:
        given += ["--base", tiny_models.base]
    done = invoke(*given, "--out", tmp_path / "out")
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [["source"], ["target", "--form", "lora"]])
def test_two_do_not_train_into_one_place(words: list[str], domain_dir: Path, tiny_models: Any, tmp_path: Path) -> None:
    with claimed(tmp_path / "out.training"):
        done = invoke(*words, domain_dir, "--base", tiny_models.base, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "another process is at work in" in done.stderr
    assert not (tmp_path / "out").exists()


def test_settings_come_from_a_file_and_options_override_them(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("epochs = 7\nlearning_rate = 0.1\nseed = 3\n")
    assert changes(file, epochs=2) == {"epochs": 2, "learning_rate": 0.1, "seed": 3}
    assert target_config(**changes(file, seed=0)).seed == 0


@pytest.mark.parametrize("center", [True, False])
def test_a_settings_file_may_leave_the_center_out(
    center: bool, domain_dir: Path, tiny_domain: Domain, tiny_models: Any, tmp_path: Path
) -> None:
    file, out = tmp_path / "settings.toml", tmp_path / "adapter"
    file.write_text(f"precision = 'fp32'\ncenter = {str(center).lower()}\n")
    done = invoke("source", domain_dir, "--out", out, "--base", tiny_models.base, "--config", file, *QUICK)
    assert done.exit_code == 0, done.stderr
    assert bundle.read_bundle_manifest(out)["training"]["center"] is center
    means = [module.mean for module in bundle.load(out) if isinstance(module, Center)]
    base = untrained(str(tiny_models.base), tiny_domain.titles, center=True).model
    expected = [module.mean for module in base if isinstance(module, Center)] if center else []
    torch.testing.assert_close(means, expected, atol=1e-5, rtol=0)  # taken before the first step


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = ", "cannot be read"),
        ("epochs = 'two'", "settings .*toml .*epochs is 'two': expected int"),
        ("epochs = true", "is True"),
        ("epochs = 1.5", "is 1.5: expected int"),
        ("center = 1", "settings .*toml .*center is 1: expected bool"),
        ("center = 'no'", "is 'no': expected bool"),
    ],
)
def test_bad_settings_are_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        changes(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        changes(tmp_path / "nothing.toml")


def test_an_unknown_setting_is_refused_by_name(domain_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("epoch = 3")
    done = invoke("source", domain_dir, "--out", tmp_path / "out", "--config", file)
    assert done.exit_code == 2
    assert "unknown training setting 'epoch'" in done.stderr


def test_an_item_without_a_title_is_no_obstacle(tiny_domain: Domain, tiny_models: Any, tmp_path: Path) -> None:
    import polars as pl

    blank = pl.when(pl.col("item_id") == "i0").then(pl.lit("")).otherwise("title").alias("title")
    domain = Domain("kept", tiny_domain.items.with_columns(blank), tiny_domain.interactions)
    write_domain(domain, tmp_path / "kept")
    out = tmp_path / "adapter"
    arguments = ["train", "source", tmp_path / "kept", "--out", out, "--base", tiny_models.base, *QUICK]
    done = RUNNER.invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    assert bundle.read_bundle_manifest(out)["domain"]["fingerprint"] == domain.fingerprint


def test_an_interrupted_run_says_how_to_go_on(
    domain_dir: Path, tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["train", "source", str(domain_dir), "--out", str(tmp_path / "my adapter"), "--base", str(tiny_models.base)]
    monkeypatch.setattr(loop, "_train", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr("sys.argv", ["xcrossrec", *given, "--resume"])
    done = RUNNER.invoke(app, given)
    assert done.exit_code == 130
    assert f"interrupted: resume with\n  xcrossrec {shlex.join(given)} --resume\n" in done.stderr


def test_a_full_disk_says_how_to_go_on(
    domain_dir: Path, tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*args: Any) -> None:
        logging_ = type("Writer", (threading.Thread,), {"__module__": "tensorboard.summary"})(target=_full)
        logging_.start()
        logging_.join()
        _full()

    given = ["train", "source", str(domain_dir), "--out", str(out := tmp_path / "out"), "--base", str(tiny_models.base)]
    monkeypatch.setattr(loop, "_train", fill)
    done = RUNNER.invoke(app, given)
    assert done.exit_code == 2
    assert done.stderr.endswith("check that it may be written, then try again\n")
    assert f"error: {out}.training/logs could not be written" in done.stderr
    (tmp_path / "out.training" / "checkpoint-1").mkdir()
    (tmp_path / "out.training" / "checkpoint-1" / "files.json").touch()
    assert RUNNER.invoke(app, [*given, "--resume"]).stderr.endswith("then try again, with --resume\n")


def _full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.filterwarnings("ignore")
def test_a_training_prints_nothing_but_its_own_sentences(
    domain_dir: Path, tiny_models: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = ["train", "source", domain_dir, "--out", tmp_path / "a", "--base", tiny_models.base, *QUICK]
    done = RUNNER.invoke(app, list(map(str, given)), catch_exceptions=False)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].startswith(
        "Whether this is better than the base is not known: no users were set"
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("initial", "losses", "said"),
    [
        (
            4.5,
            (4.4, 4.2, 4.3),
            "Better than the base: loss on the users set aside 4.5000 -> 4.2000, best after epoch 2",
        ),
        (
            4.5,
            (4.5, 4.6),
            "Nothing improved: after no epoch the loss on the users set aside was below the 4.5000 of the",
        ),
        (None, (), "Whether this is better than the base is not known"),
    ],
)
def test_a_training_says_whether_anything_improved(
    initial: float | None, losses: tuple[float, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    best = None if initial is None else min(initial, *losses)
    report = loop.TrainingReport(90, 10, float(len(losses)), best, initial, losses, 1.0, 5)
    _print(report, Lora(out=Path("out")), "the base")
    assert capsys.readouterr().out.splitlines()[1].startswith(said)
    _print(report, Lora(out=Path("out"), as_json=True), "the base")
    expected = None if initial is None else said.startswith("Better")
    assert json.loads(capsys.readouterr().out)["improved"] is expected
