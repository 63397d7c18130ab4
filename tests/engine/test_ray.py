"""The same jobs on a cluster of two machines, one of which dies: the same results, to the bit, and no row lost."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from xcrossrec.catalogue import build_catalogue, encoding
from xcrossrec.cli import app
from xcrossrec.data import Domain, write_domain
from xcrossrec.engine import Parts
from xcrossrec.models.bundle import Loading

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
RUNNER = CliRunner()
SMALL = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_log_monitor": False}
SYSTEM = {
    **{"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3},
    "prestart_worker_first_driver": False,
    "num_workers_soft_limit": 4,  # else Ray ends a worker that waits for the next job, and each one loads torch anew
}


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two machines of one core each, on this one; without what only watches them."""
    pytest.importorskip("ray", reason="RAY ABSENT: pip install 'xcrossrec[ray]'; nothing was checked on a cluster")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # workers would wait behind all other tests
        import ray
        from ray.cluster_utils import Cluster

        place = tempfile.mkdtemp(prefix="ray-")
        (Path(tempfile.gettempdir()) / "ray").mkdir(
            exist_ok=True
        )  # where Ray notes the newest cluster, whatever its place
        head = {**SMALL, "include_dashboard": False, "no_monitor": True, "temp_dir": place, "_system_config": SYSTEM}
        made = Cluster(initialize_head=True, head_node_args=head)
        made.second = made.add_node(**SMALL)
        ray.init(address=made.address, log_to_driver=False, logging_level="error")
        yield made
        ray.shutdown()
        made.shutdown()
        shutil.rmtree(place, ignore_errors=True)


def on(engine: str, *command: object) -> str:
    done = RUNNER.invoke(app, [*map(str, command), "--engine", engine], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_jobs_on_two_machines_and_on_the_one_that_is_left(
    cluster: Any, tiny_domain: Domain, tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One test, so that one cluster starts and the workers that one job leaves, with torch loaded, serve the next."""
    write_domain(tiny_domain, tmp_path / "tiny")
    monkeypatch.setattr(encoding, "TEXTS_AT_ONCE", 2)
    import_files(tmp_path)
    embed(tiny_models, tiny_domain, tmp_path)
    with monkeypatch.context() as patch:
        recommend_while_a_machine_dies(cluster, tiny_models, tmp_path, patch)
    export(tiny_models, tmp_path)


def import_files(place: Path) -> None:
    for part in range(3):
        rows = [(f"u{n % 7}", f"i{(n + part) % 5}", 100 * part + n, f"Title {(n + part) % 5}") for n in range(20)]
        table = pl.DataFrame(rows, ["user_id", "item_id", "timestamp", "title"], orient="row")
        table.write_csv(place / f"bought{part}.csv")
    given = [word for part in range(3) for word in ("--interactions", place / f"bought{part}.csv")]
    for engine in ("local", "ray"):
        on(engine, "data", "import", *given, "--domain", "shop", "--out", place / f"shop-{engine}")
    local, made = (files_of(place / f"shop-{engine}") for engine in ("local", "ray"))
    told = [json.loads(files.pop("manifest.json")) for files in (local, made)]
    for each in told:
        each["created"] = each["checksums"] = None
    assert told[0] == told[1]
    assert made == local


def embed(models: Any, domain: Domain, place: Path) -> None:
    for engine in ("local", "ray"):
        build_catalogue(Loading(models.late)(), domain, place / f"embedded-{engine}").close()
        on(engine, "catalog", "embed", models.merged, place / f"embedded-{engine}")
    assert files_of(place / "embedded-ray") == files_of(place / "embedded-local")


def export(models: Any, place: Path) -> None:
    for engine in ("local", "ray"):
        given = ["--to", "vectors", "--catalog", place / "tiny", "--out", place / f"vectors-{engine}"]
        on(engine, "export", models.late, *given)
    assert files_of(place / "vectors-ray") == files_of(place / "vectors-local")


def recommend_while_a_machine_dies(cluster: Any, models: Any, place: Path, patch: pytest.MonkeyPatch) -> None:
    histories = [[f"i{n % 6}", f"Free title {n}"] for n in range(60)]
    table = pa.table({"user_id": range(60), "history": pa.array(histories, pa.list_(pa.string()))})
    pq.write_table(table, place / "users.parquet", row_group_size=5)
    named = ["recommend-batch", models.late, place / "users.parquet", "--catalog", place / "tiny", "-k", "3"]
    on("local", *named, "--out", place / "local.parquet")
    write = Parts.write

    def stop(self: Parts, name: str, result: bytes) -> None:
        if len(list(self.folder.glob("*.part"))) == 2:
            raise KeyboardInterrupt
        write(self, name, result)

    def kill(self: Parts, name: str, result: bytes) -> None:
        if len(list(self.folder.glob("*.part"))) == 4:
            cluster.remove_node(cluster.second, allow_graceful=False)
        write(self, name, result)

    given = [*named, "--out", place / "ray.parquet"]
    patch.setattr(Parts, "write", stop)
    assert RUNNER.invoke(app, [*map(str, given)]).exit_code == 130  # in this process, and it goes on in others
    patch.setattr(Parts, "write", kill)
    assert "2 of the row groups were there" in on("ray", *given)
    assert (place / "ray.parquet").read_bytes() == (place / "local.parquet").read_bytes()
