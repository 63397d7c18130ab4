"""Training by several processes: the same run as by one, one that writes, and a start that is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.integrations import integration_utils
from typer.testing import CliRunner

import trained_by_torchrun as trained
from model_families import FAMILIES, write_base
from training_runs import weights
from xcrossrec.adaptation import candidates
from xcrossrec.adaptation.run import adapt
from xcrossrec.cli import app
from xcrossrec.config import TrainingConfig
from xcrossrec.data import Domain, write_domain
from xcrossrec.exceptions import ConfigError, MissingExtraError
from xcrossrec.models.heads import HistoryMatcher
from xcrossrec.training import losses
from xcrossrec.training.losses import NextItemLoss, PairLoss
from xcrossrec.training.places import RUN_FILE
from xcrossrec.training.processes import Processes, joined
from xcrossrec.training.source import train_source
from xcrossrec.training.target import train_target

ROOT = Path(__file__).resolve().parents[2]
BOTH = (Processes(0, 2), Processes(1, 2))

# ---- a share, and the whole again


@pytest.mark.parametrize("rows", range(1, 8))
@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_are_equally_long_and_make_the_whole_again(
    rows: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = [Processes(rank, count) for rank in range(count)]
    shares = [torch.tensor(each.share(range(rows)))[:, None].float() for each in every]
    monkeypatch.setattr(losses, "all_gather", lambda own: torch.cat(shares))
    for own, each in zip(shares, every, strict=True):
        assert losses.whole(own, rows, each)[:, 0].tolist() == list(range(rows))


def in_turn(
    monkeypatch: pytest.MonkeyPatch, shares: list[Tensor], loss_of: Callable[[int, Tensor], Tensor]
) -> tuple[list[float], list[Tensor]]:
    """The loss of every process, and the gradient that each leaves on its share, halved as the mean over both is."""
    found, gradients = [], []
    for rank, share in enumerate(shares):
        own = share.clone().requires_grad_()
        before, after = shares[:rank], shares[rank + 1 :]
        monkeypatch.setattr(losses, "all_gather", lambda own, b=before, a=after: torch.cat([*b, own, *a]))
        loss = loss_of(rank, own)
        (gradient,) = torch.autograd.grad(loss, own)
        found.append(loss.item())
        gradients.append(gradient / len(shares))
    return found, gradients


class Given(nn.Module):
    """A model whose answers are its features."""

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        return {"sentence_embedding": features["own"], "scores": features["own"]}


def test_loss_and_gradients_of_both_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = nn.functional.normalize(torch.randn(7, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    labels = {"sequences": torch.tensor([[0, 3, 5], [6, 1, -1]]), "member": torch.zeros(2, 7, dtype=torch.bool)}
    labels["member"][[0, 0, 0, 1, 1], [0, 3, 5, 6, 1]] = True
    alone = vectors.clone().requires_grad_()
    loss = NextItemLoss(Given(), HistoryMatcher(), Processes())([{"own": alone}], labels)
    (expected,) = torch.autograd.grad(loss, alone)
    shares = [vectors[each.share(range(7))] for each in BOTH]

    def one(rank: int, own: Tensor) -> Tensor:
        return NextItemLoss(Given(), HistoryMatcher(), BOTH[rank])([{"own": own}], labels)

    found, gradients = in_turn(monkeypatch, shares, one)
    assert found == [loss.item()] * 2
    first, second = gradients
    torch.testing.assert_close(first, expected[::2])
    torch.testing.assert_close(second[:3], expected[1::2])
    assert second[3].abs().sum() == 0, "the first item again, which fills the share up, counts nothing"


def test_pairs_are_shared_by_user(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, place = torch.tensor([[1.0, 0.0], [2.0, 5.0], [0.5, 0.0]]), torch.zeros(3, dtype=torch.long)
    alone = scores.clone().requires_grad_()
    loss = PairLoss(Given(), 2, Processes())([{"own": alone.flatten()}], place)
    (expected,) = torch.autograd.grad(loss, alone)
    shares = [scores[each.share(range(3))] for each in BOTH]
    found, (first, second) = in_turn(
        monkeypatch, shares, lambda rank, own: PairLoss(Given(), 2, BOTH[rank])([{"own": own.flatten()}], place)
    )
    assert found == [loss.item()] * 2
    torch.testing.assert_close(torch.stack([first[0], second[0], first[1]]), expected)
    assert second[1].abs().sum() == 0, "the first user again, who fills the share up, counts nothing"


# ---- two processes as torchrun starts them


def torchrun(*words: object) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run([*start, *map(str, words)], capture_output=True, text=True, timeout=240, env=environment)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, domain_named: Any, settings: Any) -> Path:
    """A base without dropout (masks are drawn by process), two sources over it, a target; ``one`` and ``both``."""
    folder = tmp_path_factory.mktemp("processes")
    config = write_base(folder / "base", FAMILIES["bert"]) / "config.json"
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config.write_text(json.dumps({**json.loads(config.read_text()), **without}))
    write_domain(domain_named("target", 86, seed=7), folder / "domain")
    for seed, name in enumerate(("first", "second")):
        domain, how = domain_named(name, seed=seed), {"base": str(folder / "base"), "show_progress": False}
        train_source(domain, folder / name, config=settings(seed=seed, epochs=1), **how)
    for name in ("one", "both"):
        (folder / name).mkdir()
    trained.main(folder, folder / "one")
    return folder


@pytest.fixture(scope="module")
def killed(place: Path) -> str:
    """What torchrun says of the run in which all is trained, and the first process dies at the last."""
    ended = torchrun(ROOT / "tests" / "trained_by_torchrun.py", place, place / "both")
    assert ended.returncode != 0
    return ended.stderr


@pytest.mark.integration
@pytest.mark.parametrize("name", ["source", "lora", "merged", "xcross"])
def test_two_processes_train_as_one_does(name: str, place: Path, killed: str) -> None:
    assert (place / "both" / "found.json").exists(), killed
    one, both = (json.loads((place / each / "found.json").read_text())[name] for each in ("one", "both"))
    assert len(one["steps"]) == len(both["steps"]) == 50
    assert both["steps"] == pytest.approx(one["steps"], abs=1e-4)
    assert both["held"] == pytest.approx(one["held"], abs=1e-6)
    assert both["weights"] == one["weights"]
    first, second = weights(place / "one" / name), weights(place / "both" / name)
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[key], second[key], rtol=0, atol=1e-3) for key in first)
    assert min(one["held"]) < one["held"][0]


@pytest.mark.integration
def test_a_killed_run_goes_on_and_one_process_reports(place: Path, killed: str, tmp_path: Path) -> None:
    assert "SIGKILL" in killed
    out, toml = place / "both" / trained.KILLED, tmp_path / "settings.toml"
    assert not out.exists()
    toml.write_text("\n".join(f"{name} = {json.dumps(value)}" for name, value in trained.SETTINGS.items()))
    sources = [word for name in ("first", "second") for word in ("--source", place / name)]
    words = ["-m", "xcrossrec", "train", "target", place / "domain", *sources, "--out", out]
    done = torchrun(*words, "--config", toml, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["path"] == str(out), "one object, of the first process"
    assert done.stderr.count("the run goes on from") == 1
    assert not list(out.with_name(f"{trained.KILLED}.training").glob("checkpoint-*"))
    first, second = weights(place / "both" / "merged"), weights(out)
    assert all(torch.equal(first[key], second[key]) for key in first)


# ---- what is refused


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["xcrossrec", "train", "source", "a b"], "torchrun --nproc-per-node 2 -m xcrossrec train source 'a b'  or"),
        (["xcrossrec", "-q", "train", "source", "a"], "torchrun --nproc-per-node 2 -m xcrossrec -q train source a  or"),
        (["script.py", "data"], "torchrun --nproc-per-node 2 YOUR_SCRIPT.py  or"),
    ],
)
def test_an_idle_gpu_is_refused(words: list[str], line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(ConfigError, match="2 GPUs are visible, and one process trains on one") as raised:
        joined(on_cpu=False)
    assert line in str(raised.value)
    assert str(raised.value).endswith("or show it one with CUDA_VISIBLE_DEVICES=0")


def test_a_training_that_cannot_be_is_refused_before_anything_is_read(
    tmp_path: Path, target_domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    unread = {"base": tmp_path / "no base"}
    with pytest.raises(ConfigError, match="unknown tracker 'none': report_to is one of tensorboard, mlflow, wandb"):
        train_source(target_domain, tmp_path / "out", report_to="none", **unread)  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="2 GPUs are visible"):
        train_source(target_domain, tmp_path / "out", **unread)
    with pytest.raises(ConfigError, match="2 GPUs are visible"):
        train_target(target_domain, [tmp_path / "no source"], tmp_path / "out", **unread)


def test_adapt_touches_nothing_where_a_gpu_would_be_idle(
    tmp_path: Path, target_domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(
        ConfigError, match="2 GPUs are visible, and one process trains on one: show it one with CUDA_VI"
    ):
        adapt(target_domain, [], out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_an_interrupted_training_left_goes_only_for_another_run(tmp_path: Path) -> None:
    def refusing(error: Exception) -> Callable[..., None]:
        def train(*, resume: bool, **settings: object) -> None:
            if resume:
                raise error

        return train

    kept = tmp_path / "model.training" / RUN_FILE
    kept.parent.mkdir()
    kept.write_text("{}")
    with pytest.raises(ConfigError, match="two GPUs"):
        candidates._from_where_it_was(tmp_path / "model", refusing(ConfigError("two GPUs")))
    assert kept.exists()


@pytest.mark.parametrize(("rank", "start"), [("0", "error: 2 processes"), ("1", "error (process 1): 2 processes")])
def test_torchrun_is_for_training(rank: str, start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    ended = CliRunner().invoke(app, ["compare", "a", "b"])
    assert (ended.exit_code, ended.stderr) == (2, f"{start} run `xcrossrec compare`: torchrun is for `train`\n")


@pytest.mark.parametrize(("rank", "count"), [("0", "abc"), ("2", "2"), ("-1", "2"), ("0", "0")])
def test_processes_that_cannot_be_are_a_sentence(rank: str, count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", count)
    monkeypatch.setenv("RANK", rank)
    ended = CliRunner().invoke(app, ["compare", "a", "b"])
    assert ended.exit_code == 2
    assert f"RANK is '{rank}' and WORLD_SIZE '{count}': start processes with torchrun" in ended.stderr


def test_processes_that_torchrun_did_not_start_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="WORLD_SIZE is 2, but LOCAL_RANK is not set: start processes with torchrun"):
        joined(on_cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "1")
    assert Processes.here().first, "one process alone writes, whatever its shell was left with"


# ---- what Python and trackers are told


def test_gradients_of_several_batches_make_one_step(
    tmp_path: Path, tiny_base: str, target_domain: Domain, settings: Callable[..., TrainingConfig]
) -> None:
    seen = trained.Losses()
    config = settings(epochs=1, holdout_share=0.0, accumulate=2)
    how = {"base": tiny_base, "show_progress": False, "callbacks": [seen]}
    train_source(target_domain, tmp_path / "a", config=config, **how)
    assert len(seen.found) == 2, "48 users in batches of 16 are three, so two steps"


def test_a_tracker_is_told_the_losses(
    tmp_path: Path,
    tiny_base: str,
    target_domain: Domain,
    settings: Callable[..., TrainingConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[Any] = []

    ended: list[bool] = []

    class Recorder(trained.TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            assert not ended, "its run has ended"
            told.append((args.run_name, args.project, logs))

        def on_train_end(self, *_: Any, **__: Any) -> None:
            ended.append(True)

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "mlflow", Recorder)
    monkeypatch.setattr("xcrossrec.extras.find_spec", lambda name: object())
    how = {"base": tiny_base, "show_progress": False, "config": settings(epochs=1)}
    train_source(target_domain, tmp_path / "toys", report_to="mlflow", **how)
    assert {(name, project) for name, project, _ in told} == {("toys", "xcrossrec")}
    assert any("eval_loss" in logs for *_, logs in told)
    assert not (tmp_path / "toys.training" / "logs").exists(), "TensorBoard was not asked for"


def test_an_absent_tracker_names_its_install_line(
    tmp_path: Path, tiny_base: str, target_domain: Domain, settings: Callable[..., TrainingConfig]
) -> None:
    with pytest.raises(
        MissingExtraError, match="this needs 'trackio', which is not installed: run  pip install trackio"
    ):
        train_source(target_domain, tmp_path / "a", report_to="trackio", base=tiny_base, config=settings())
    assert not list(tmp_path.iterdir())
