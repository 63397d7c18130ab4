"""A few of the flips and kills; the laboratory's command does hundreds."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from xcrossrec_lab.faults.catalogue import BAD
from xcrossrec_lab.faults.flips import LOG, flip_bits, make_images
from xcrossrec_lab.faults.kills import Job, kill_at_random


def test_flips_are_repaired_or_named(tmp_path: Path) -> None:
    crashed, closed = make_images(tmp_path, items=40, writes=10)
    files = sorted(path.name for path in closed.folder.iterdir())
    found = flip_bits(closed, files, 14, 0, tmp_path) + flip_bits(crashed, [LOG], 6, 0, tmp_path)
    assert found["refused, then repaired whole"]
    assert found["refused, then taken back to an earlier write, and said so"]
    assert not [outcome for outcome in found if outcome.startswith(BAD)]


def test_a_job_that_does_not_go_on_is_found(tmp_path: Path) -> None:
    """The attack itself is tried on a job that fails each time."""
    job = Job("version", ["no-such-command"], tmp_path / "made")
    (outcome,) = kill_at_random(job, 2, random.Random(0), tmp_path / "log")
    assert outcome.startswith("FAILED undisturbed (2)")
    assert sys.argv[0] != "xcrossrec"
