"""What the HTTP server costs: httptools with the service's own limits beside h11, for known ids, in turns.

    python -m xcrossrec_lab.service.http_servers MODEL DOMAIN

The same service twice, each asked with wrk by 8 connections. Server and load share this machine's cores, so processor
time a request is compared, not throughput.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from xcrossrec import read_domain
from xcrossrec_lab.service.load import cpu_s, server, write_bodies, wrk

H11 = """
import uvicorn
from xcrossrec.serving.server import Server
Config, Server.on_tick = uvicorn.Config, uvicorn.Server.on_tick
uvicorn.Config = lambda *words, **options: Config(*words, **{**options, "http": "h11"})
from xcrossrec.cli import main
main()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("domain", type=Path)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=6)
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_bodies(read_domain(given.domain), "ids", folder / "bodies")
        urls = {}
        for name, program in {"httptools": None, "h11": H11}.items():
            shutil.copytree(given.domain, folder / name)
            urls[name] = stack.enter_context(
                server(given.model, folder / name, folder / f"{name}.log", program=program)
            )
        found: dict[str, list[float]] = {name: [] for name in urls}
        for _ in range(given.rounds):
            for name, url in urls.items():
                before = cpu_s(url)
                answered = wrk(url, folder / "bodies", connections=8, seconds=given.seconds)["ok"]
                found[name].append(round(1000 * (cpu_s(url) - before) / answered, 3))
        more = [round(h11 / own - 1, 3) for own, h11 in zip(found["httptools"], found["h11"], strict=True)]
        medians = {name: median(values) for name, values in found.items()}
        report = {"cpu_ms_per_request": found, "median": medians, "h11_more": more, "h11_more_median": median(more)}
        json.dump(report, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
