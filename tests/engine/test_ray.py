"""The same jobs on a cluster of two machines, one of which dies: the same results, to the bit, and no row lost."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from xcrossrec.cli import app
from xcrossrec.data import Domain, write_domain
from xcrossrec.engine import Parts

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
RUNNER = CliRunner()
SMALL = {"num_cpus": 1, "object_store_memory": 100_000_000}
SOON = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two machines of one core each, on this one."""
    pytest.importorskip("ray", reason="RAY ABSENT: pip install 'xcrossrec[ray]'; nothing was checked on a cluster")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        import ray
        from ray.cluster_utils import Cluster

        place = tempfile.mkdtemp(prefix="ray-")
        head = {**SMALL, "include_dashboard": False, "temp_dir": place, "_system_config": SOON}
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


def test_a_machine_that_dies_costs_time_and_no_rows(
    cluster: Any, tiny_domain: Domain, tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_domain(tiny_domain, tmp_path / "tiny")
    histories = [[f"i{n % 6}", f"Free title {n}"] for n in range(60)]
    table = pa.table({"user_id": range(60), "history": pa.array(histories, pa.list_(pa.string()))})
    pq.write_table(table, tmp_path / "users.parquet", row_group_size=5)
    named = ["recommend-batch", tiny_models.late, tmp_path / "users.parquet", "--catalog", tmp_path / "tiny", "-k", "3"]
    on("local", *named, "--out", tmp_path / "local.parquet")
    write = Parts.write

    def stop(self: Parts, name: str, result: bytes) -> None:
        if len(list(self.folder.glob("*.part"))) == 2:
            raise KeyboardInterrupt
        write(self, name, result)

    def kill(self: Parts, name: str, result: bytes) -> None:
        if len(list(self.folder.glob("*.part"))) == 4:
            cluster.remove_node(cluster.second, allow_graceful=False)
        write(self, name, result)

    given = [*named, "--out", tmp_path / "ray.parquet"]
    monkeypatch.setattr(Parts, "write", stop)
    assert RUNNER.invoke(app, [*map(str, given)]).exit_code == 130  # in this process, and it goes on in others
    monkeypatch.setattr(Parts, "write", kill)
    assert "2 of the row groups were there" in on("ray", *given)
    assert (tmp_path / "ray.parquet").read_bytes() == (tmp_path / "local.parquet").read_bytes()
