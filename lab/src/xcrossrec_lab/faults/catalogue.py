"""Damage and kills of catalogues and of the jobs that make them.

    python -m xcrossrec_lab.faults.catalogue --flips 400 --log-flips 200 --kills 20

The kills of a service that takes writes are a test: tests/serving/faults/test_faults.py.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from xcrossrec_lab.faults.flips import LOG, flip_bits, make_images
from xcrossrec_lab.faults.kills import in_child, jobs_of, kill_at_random, prepare

BAD = ("SILENT", "RAW", "NAMELESS", "FAILED")


def main() -> None:
    """Print what came of each fault, as JSON; status 1 if any was served silently, or ended in no sentence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=400, help="bits of a closed catalogue's files, all alike")
    parser.add_argument("--log-flips", type=int, default=200, help="bits of the log of a crash")
    parser.add_argument("--kills", type=int, default=20, help="of each job: import, build, embed, batch")
    parser.add_argument("--items", type=int, default=600, help="of the killed jobs")
    parser.add_argument("--users", type=int, default=4000, help="of the killed jobs")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory(prefix="xcrossrec-faults-") as name:
        place = Path(name)
        if given.kills:  # first: its children are forked before anything is computed here
            if in_child(lambda: prepare(place, given.users, given.items)):
                sys.exit("the jobs could not be prepared")
            draw = random.Random(given.seed)
            for job in jobs_of(place):
                found[f"kills of {job.name}"] = kill_at_random(job, given.kills, draw, place / "log")
                print(job.name, dict(found[f"kills of {job.name}"]), file=sys.stderr)
        (place / "flips").mkdir()
        crashed, closed = make_images(place / "flips", items=200, writes=30)
        files = sorted(path.name for path in closed.folder.iterdir())
        found["flips of a closed catalogue"] = flip_bits(closed, files, given.flips, given.seed, place)
        found["flips of the log of a crash"] = flip_bits(crashed, [LOG], given.log_flips, given.seed, place)
    print(json.dumps(found, indent=1))
    sys.exit(any(outcome.startswith(BAD) for outcomes in found.values() for outcome in outcomes))


if __name__ == "__main__":
    main()
