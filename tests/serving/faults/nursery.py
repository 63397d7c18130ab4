"""Starts processes by fork out of one that has imported everything: real processes, without seconds of imports each.

    python nursery.py MODULE...

Orders come as JSON lines on stdin: ``{"call": "module:function", "argv": [...], "log": path, "fsize": bytes or null}``
starts a process and answers its id; ``{"wait": pid}`` answers its exit status, negative for a signal. When stdin ends,
so do all processes.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import sys
import traceback
from typing import Any


def start(order: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        status = run(order)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run(order: dict[str, Any]) -> int:
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number, handle in enumerate((os.open(os.devnull, os.O_RDONLY), log, log)):
        os.dup2(handle, number)
    if order.get("fsize"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["fsize"], resource.RLIM_INFINITY))
    if order.get("files"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (order["files"], order["files"]))
    os.environ.update(order.get("environment", {}))
    sys.argv = order["argv"]
    module, function = order["call"].split(":")
    getattr(importlib.import_module(module), function)()
    return 0


def main() -> None:
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the processes need not look for garbage in what was imported
    print("ready", flush=True)
    running: set[int] = set()
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            running.discard(order["wait"])
            print(os.waitstatus_to_exitcode(status), flush=True)
        else:
            running.add(pid := start(order))
            print(pid, flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
