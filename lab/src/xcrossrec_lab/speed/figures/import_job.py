"""One preparation in a process of its own: prints its seconds (without Python's imports) and its peak memory, as JSON.

python -m xcrossrec_lab.speed.figures.import_job --arm ours --reviews FILE --metadata FILE --out DIR [--core K]
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

Job: TypeAlias = Callable[[Path, Path, Path, int], None]
FORMAT = "amazon2018"


def ours() -> Job:
    """What `xcrossrec data import --unknown-items drop` does."""
    from xcrossrec import write_domain
    from xcrossrec.data.readers import Inputs, Recipe, import_domain

    def job(reviews: Path, metadata: Path, out: Path, core: int) -> None:
        recipe = Recipe(core=core, unknown_items="drop")
        write_domain(import_domain("generated", FORMAT, Inputs(reviews, metadata), recipe), out, overwrite=True)

    return job


def pandas() -> Job:
    """The same preparation in plain pandas."""
    from xcrossrec_lab.speed.figures.import_pandas import prepare

    def job(reviews: Path, metadata: Path, out: Path, core: int) -> None:
        prepare(reviews, metadata, out, min_user=core, min_item=core)

    return job


ARMS: dict[str, Callable[[], Job]] = {"ours": ours, "pandas": pandas}


def peak_mb() -> float:
    """Most memory this program has held (resident, MiB); unlike ``ru_maxrss`` not that of the process it came from."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arm", choices=list(ARMS), required=True)
    for name in ("reviews", "metadata", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--core", type=int, default=5, help="fewest interactions of a user and of an item")
    given = parser.parse_args()
    job = ARMS[given.arm]()
    start, busy = time.perf_counter(), time.process_time()
    job(given.reviews, given.metadata, given.out, given.core)
    seconds = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - busy}
    print(json.dumps({**seconds, "peak_mb": peak_mb()}))


if __name__ == "__main__":
    main()
