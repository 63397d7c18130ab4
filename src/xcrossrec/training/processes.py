"""Training by several processes: `torchrun` starts them, each encodes a share of every batch, the first one writes.

A run is what its settings say, however many processes take part: a batch has the same users and the same negatives.
Every process draws it whole, encodes every n-th of its texts, and gets the vectors of the others; so each computes the
same loss over the same items as one process alone would.
"""

from __future__ import annotations

import atexit
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import cycle, islice
from typing import TypeVar

from xcrossrec.exceptions import ConfigError

T = TypeVar("T")

_PATIENCE = timedelta(days=1)
"""How long the others wait for what the first process does alone; `torchrun` ends them when it dies."""


@dataclass(frozen=True)
class Processes:
    """Which process this is, of how many.

    Attributes:
        rank: from 0; 0 writes.
        count: 1 without `torchrun`.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Processes:
        """As `torchrun` says, which needs no torch; ConfigError where RANK and WORLD_SIZE are set, and say nothing that
        can be."""
        said = {name: os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))}
        if said["WORLD_SIZE"] == "1":
            return cls()
        if not all(map(str.isdecimal, said.values())) or not int(said["RANK"]) < int(said["WORLD_SIZE"]):
            raise ConfigError(
                f"RANK is {said['RANK']!r} and WORLD_SIZE {said['WORLD_SIZE']!r}: start processes with torchrun, which "
                "sets both, or unset them"
            )
        return cls(int(said["RANK"]), int(said["WORLD_SIZE"]))

    @property
    def first(self) -> bool:
        """Whether this one writes, prints and shows progress."""
        return self.rank == 0

    def share(self, rows: Sequence[T]) -> list[T]:
        """This process's part: every ``count``-th, so many for each; the first ones again where they run out."""
        padded = [*rows, *islice(cycle(rows), -len(rows) % self.count)]
        return padded[self.rank :: self.count]

    def by_first(self, work: Callable[[], T]) -> T:
        """Let the first process do something alone; the others wait for it, and get what it found."""
        if self.count == 1:
            return work()
        from torch.distributed import broadcast_object_list

        found = [work() if self.first else None]
        broadcast_object_list(found)
        return found[0]  # type: ignore[return-value]

    def wait(self) -> None:
        """Wait until all are here."""
        self.by_first(lambda: None)

    def command(self, words: Sequence[str]) -> str:
        """The line to type for some words of the command line."""
        here = os.environ.get("LOCAL_WORLD_SIZE", str(self.count))  # of several machines, this one's
        start = ["xcrossrec"] if self.count == 1 else ["torchrun", "--nproc-per-node", here, "-m", "xcrossrec"]
        return shlex.join([*start, *words])


def joined(*, on_cpu: bool) -> Processes:
    """Join the other processes of a training, if there are any; no accelerator takes part ``on_cpu``.

    Raises:
        ConfigError: several GPUs are visible to a single process, which would leave all but one idle; or there are
            several processes that torchrun did not start.
    """
    here = Processes.here()
    if here.count == 1:
        refuse_idle_gpus()
        return here
    if missing := [name for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise ConfigError(
            f"WORLD_SIZE is {here.count}, but {missing[0]} is not set: start processes with torchrun, which sets all, "
            "or unset it"
        )
    import torch.distributed
    from accelerate import PartialState

    if not torch.distributed.is_initialized():
        PartialState(cpu=on_cpu, timeout=_PATIENCE)
        atexit.register(torch.distributed.destroy_process_group)
    return here


def refuse_idle_gpus(*, shared: bool = True) -> None:
    """Refuse to train by one process where several GPUs are visible (ConfigError, which says what to type, of
    `torchrun` too where that can start what is running now: ``shared``)."""
    import torch

    if Processes.here().count > 1 or (count := torch.cuda.device_count()) < 2:
        return
    trains = "train" in sys.argv[1:3]
    line = Processes(0, count).command(sys.argv[1:]) if trains else f"torchrun --nproc-per-node {count} YOUR_SCRIPT.py"
    raise ConfigError(
        f"{count} GPUs are visible, and one process trains on one: "
        + (f"train on all of them with  {line}  or " if shared else "")
        + "show it one with CUDA_VISIBLE_DEVICES=0"
    )
