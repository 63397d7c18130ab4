"""Load on the service: throughput with and without batching, latency at half of it, ten times too much, recovery.

    python -m xcrossrec_lab.service.load MODEL DOMAIN --out lab/results/service/load.json

Server and load share this machine's cores. Two servers over the same model and items run at once and are measured in
turn: one answers in batches, one has `XCROSSREC_BATCH=1`. Saturation is measured by wrk (closed loop), latency by
requests sent at fixed times whatever came back before, each counted from the time at which it was due.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from xcrossrec import read_domain

SCRIPT = Path(__file__).with_suffix(".lua")
BODIES, OF_OVERLOAD = 4000, 40_000
"""Requests before one comes again, with the free titles that are remembered then; an overload asks more often."""

WORKLOADS = ("mixed", "titles", "ids")
"""4 ids and a title that the catalogue lacks (what the page asks while somebody types); 3 such titles; 5 ids."""


WHAT = {"mixed": "4 ids and 1 free title", "titles": "3 free titles", "ids": "5 ids"}

PAGE = """# The service under load

Made by `xcrossrec_lab.service.load` from `{file}`; measure again, on a machine with nothing else to do, by

    .venv/bin/python -m xcrossrec_lab.service.load MODEL DOMAIN --out lab/results/service/{file}

MODEL: MiniLM with 2 integrated streams, `dual`. DOMAIN: {info[items]} items. Server and load share
{info[cores]} cores ({info[processor]}; torch {info[torch]});
load average of the machine before: {info[load_1m]}. A free title is one that the catalogue lacks, so that the model has
to encode it; none comes twice in one measurement, so that none is remembered. "One by one" is the same server with
`XCROSSREC_BATCH=1`. Both were measured in turn; throughput is wrk's with 64 connections, the median of the rounds.

| history | batched, requests/s | one by one | ratio | processor ms a request | at half: p50 / p95 / p99 ms | not 200 |
|---|---|---|---|---|---|---|
{rows}

Latency is counted from the time at which a request was due, whatever came back before.

**Ten times too much** (4 ids and 1 free title): {over[offered_per_s]:.0f} requests/s offered,
{over[times_saturation]} times saturation, for {over[seconds]:.0f} s:
{over[ok]} answered ({over[answered_per_s]:.0f}/s, {over[kept]:.0%} of saturation),
{over[busy]} refused with 429, {failures} other errors.
Then half of saturation again: the last refused or slow answer (over twice the usual p99) was due
{over[recovered_after_s]} s after the overload ended; p50 / p95 / p99 of those 8 s:
{after[p50_ms]:.0f} / {after[p95_ms]:.0f} / {after[p99_ms]:.0f} ms.

`stores.json`: SQLite against LanceDB as the catalogue's store; see [docs/catalogue.md](../../../docs/catalogue.md).
`fairness.json`, `fairness-refused.json`: known ids beside a stranger's titles, encoded or
refused (`xcrossrec_lab.service.fairness`).
`memory.json`: what a process held, minute by minute, under mixed requests (`xcrossrec_lab.service.memory`).
`scale-200k.json`: the catalogues of [docs/scale.md](../../../docs/scale.md); `scale-1m.json`: a million items in SQLite
on a busy machine, before the table there was measured (`xcrossrec_lab.speed.scale`).
"""


# ---- requests


def write_bodies(domain: Any, workload: str, path: Path, seed: int = 0, count: int = BODIES) -> None:
    """Write a measurement's requests; those of another seed have other free titles, which no server remembers."""
    draw = random.Random(seed)
    items, titles = domain.items["item_id"].to_list(), domain.titles
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            history = [
                {"item_id": item_id} for item_id in draw.sample(items, {"mixed": 4, "titles": 0, "ids": 5}[workload])
            ]
            free = {"mixed": 1, "titles": 3, "ids": 0}[workload]
            history += [{"title": free_title(titles, draw)} for _ in range(free)]
            file.write(json.dumps({"history": history, "k": 10}) + "\n")


def free_title(titles: Sequence[str], draw: random.Random) -> str:
    """Half of one title and half of another: as long as titles are, and in no catalogue."""
    first, second = (draw.choice(titles).split() for _ in range(2))
    return " ".join([*first[: len(first) // 2 + 1], *second[len(second) // 2 :]])[:1000]


# ---- servers


@contextmanager
def server(model: Path, catalog: Path, log: Path, *, program: str | None = None, batch: int = 32) -> Iterator[str]:
    words = [sys.executable, "-W", "ignore", "-c", program or "from xcrossrec.cli import main; main()"]
    words += ["serve", f"toys={model}", "--catalog", str(catalog), "--port", "0"]
    begun, settings = time.perf_counter(), {**os.environ, "XCROSSREC_BATCH": str(batch)}
    with (
        log.open("w") as file,
        subprocess.Popen(words, stderr=file, stdout=subprocess.DEVNULL, env=settings) as process,
    ):
        try:
            yield address(process, log)
            print(
                f"  server (batch {batch}) listened; up for {time.perf_counter() - begun:.0f} s",
                file=sys.stderr,
            )
        finally:
            process.terminate()
            process.wait(60)


def address(process: subprocess.Popen[bytes], log: Path) -> str:
    for _ in range(3000):
        for line in log.read_text().splitlines():
            if "listening at " in line:
                return str(json.loads(line)["message"]).rpartition(" ")[2]
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit(f"the server does not start: {log.read_text()}")


# ---- load


def wrk(url: str, bodies: Path, *, connections: int, seconds: float, wait_ms: int = 0) -> dict[str, float]:
    words = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s", "-s", str(SCRIPT)]
    done = subprocess.run(
        [*words, f"{url}/v1/recommend", "--", str(bodies), str(wait_ms)], capture_output=True, text=True
    )
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return dict(json.loads(line.removeprefix("RESULT ")))
    raise SystemExit(f"wrk failed: {done.stdout}{done.stderr}")


def per_second(found: dict[str, float]) -> float:
    return found["ok"] / found["seconds"]


class Connections:
    """Kept connections to a server: as little work a request as can be, since the server needs the processor."""

    def __init__(self, url: str) -> None:
        self.host, _, port = url.removeprefix("http://").rpartition(":")
        self.port = int(port)
        self.free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, body: bytes) -> int:
        """Ask for recommendations; gives the answer's status."""
        reader, writer = self.free.pop() if self.free else await asyncio.open_connection(self.host, self.port)
        head = f"POST /v1/recommend HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
        await reader.readexactly(length)
        self.free.append((reader, writer))
        return int(lines[0].split()[1])

    def close(self) -> None:
        for _, writer in self.free:
            writer.close()


async def at_rate(
    url: str, bodies: Sequence[bytes], rate: float, seconds: float, each: Callable[[float, float, int], None]
) -> None:
    """Send at fixed times; tells when each was due, how long it took from then, and its status (0: no answer)."""
    connections, begun = Connections(url), time.perf_counter()

    async def one(number: int) -> None:
        due, status = begun + number / rate, 0
        await asyncio.sleep(due - time.perf_counter())
        try:
            async with asyncio.timeout(30):
                status = await connections.post(bodies[number % len(bodies)])
        except (OSError, EOFError, TimeoutError) as error:
            print(f"  no answer: {error!r}", file=sys.stderr)
        each(due - begun, time.perf_counter() - due, status)

    await asyncio.gather(*(one(number) for number in range(int(rate * seconds))))
    connections.close()


def open_loop(url: str, bodies: Path, rate: float, seconds: float) -> list[tuple[float, float, int]]:
    found: list[tuple[float, float, int]] = []
    lines = bodies.read_bytes().splitlines()
    asyncio.run(at_rate(url, lines, rate, seconds, lambda due, took, status: found.append((due, took, status))))
    return sorted(found)


def latency(found: Sequence[tuple[float, float, int]]) -> dict[str, Any]:
    took = [1000 * each[1] for each in found]
    if not took:
        raise SystemExit("no request was sent: the rate is too low for the seconds of a measurement")
    shares = {f"p{share}_ms": round(float(np.percentile(took, share)), 1) for share in (50, 95, 99)}
    return {"requests": len(took), **shares, "not_200": sum(status != 200 for *_, status in found)}


def recovery_s(found: Sequence[tuple[float, float, int]], usual_ms: float) -> float:
    """When the last request was due that was refused, or took longer than twice the usual."""
    slow = [due for due, took, status in found if status != 200 or 1000 * took > 2 * usual_ms]
    return round(max(slow), 2) if slow else 0.0


# ---- the run


def cpu_s(url: str) -> float:
    """Processor seconds that a server has used."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"serve" in words and url.encode() in (process / "fd" / "2").resolve().read_bytes():
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            continue
    return float("nan")


def saturation(
    urls: dict[str, str], domain: Any, workload: str, bodies: Path, seconds: float, rounds: int
) -> dict[str, Any]:
    """Throughput of both servers in turn, and the processor time that each request took them."""
    rates: dict[str, list[float]] = {name: [] for name in urls}
    cpu_ms: dict[str, list[float]] = {name: [] for name in urls}
    failures = 0.0
    for number in range(rounds):
        for name, url in urls.items():
            write_bodies(domain, workload, bodies, seed=10 + number)
            before = cpu_s(url)
            found = wrk(url, bodies, connections=64, seconds=seconds)
            rates[name].append(round(per_second(found), 1))
            cpu_ms[name].append(round(1000 * (cpu_s(url) - before) / max(found["ok"], 1), 2))
            failures += sum(found[key] for key in ("busy", "other", "connect", "read", "write", "timeout"))
    batched, single = (median(rates[name]) for name in ("batched", "one_by_one"))
    return {
        "requests_per_s": {name: {"median": median(values), "rounds": values} for name, values in rates.items()},
        "ratio": round(batched / single, 2),
        "server_cpu_ms_per_request": {name: median(values) for name, values in cpu_ms.items()},
        "not_200": int(failures),
    }


def overload(url: str, bodies: Path, rate: float, seconds: float, usual_ms: float) -> dict[str, Any]:
    """Ten times the rate of saturation or more, then half of saturation again."""
    connections = 2000
    wait_ms = max(1, round(1000 * connections / (12 * rate)))  # they wait for their answers besides
    found = wrk(url, bodies, connections=connections, seconds=max(20, seconds), wait_ms=wait_ms)
    after = open_loop(url, bodies, rate / 2, 8)  # bodies of which few were answered
    offered = (found["ok"] + found["busy"] + found["other"]) / found["seconds"]
    return {
        **found,
        "offered_per_s": round(offered, 1),
        "times_saturation": round(offered / rate, 1),
        "answered_per_s": round(per_second(found), 1),
        "kept": round(per_second(found) / rate, 2),
        "recovered_after_s": recovery_s(after, usual_ms),
        "after": latency(after),
    }


def measure(urls: dict[str, str], domain: Any, folder: Path, seconds: float, rounds: int) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for workload in WORKLOADS:
        bodies = folder / f"{workload}.jsonl"
        write_bodies(domain, workload, bodies)
        for url in urls.values():
            wrk(url, bodies, connections=8, seconds=2)
        results[workload] = saturation(urls, domain, workload, bodies, seconds, rounds)
        print(workload, results[workload], file=sys.stderr)
        rate = results[workload]["requests_per_s"]["batched"]["median"]
        write_bodies(domain, workload, bodies, seed=1)
        half = open_loop(urls["batched"], bodies, rate / 2, seconds)
        results[workload]["at_half"] = {"requests_per_s": round(rate / 2, 1), **latency(half)}
        print(workload, results[workload]["at_half"], file=sys.stderr)
        if workload == "mixed":
            usual = results[workload]["at_half"]["p99_ms"]
            write_bodies(domain, workload, bodies, seed=2, count=OF_OVERLOAD)
            results["overload"] = overload(urls["batched"], bodies, rate, seconds, usual)
            print("overload", results["overload"], file=sys.stderr)
    return results


def write_page(results: Path) -> None:
    """Write README.md beside the results."""
    found = json.loads(results.read_text(encoding="utf-8"))
    info, over, rows = found["about"], found["overload"], []
    for workload, what in WHAT.items():
        part = found[workload]
        rate, cpu, half = part["requests_per_s"], part["server_cpu_ms_per_request"], part["at_half"]
        latencies = " / ".join(f"{half[name]:.0f}" for name in ("p50_ms", "p95_ms", "p99_ms"))
        rows.append(
            f"| {what} | {rate['batched']['median']:.0f} | {rate['one_by_one']['median']:.0f} "
            f"| **{part['ratio']:.2f}** | {cpu['batched']:.1f} / {cpu['one_by_one']:.1f} "
            f"| {half['requests_per_s']:.0f}: {latencies} | {part['not_200'] + half['not_200']} |"
        )
    failures = sum(over[key] for key in ("other", "connect", "read", "write", "timeout"))
    results.with_name("README.md").write_text(
        PAGE.format(
            rows="\n".join(rows), info=info, over=over, file=results.name,
            failures=failures, after=over["after"],
        ),
        encoding="utf-8",
    )  # fmt: skip


def about(domain: Any) -> dict[str, Any]:
    import torch

    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "items": domain.items.height,
        "cores": len(os.sched_getaffinity(0)),
        "processor": model[0].partition(":")[2].strip() if model else platform.processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load_1m": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("domain", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--catalog", type=Path, help="a catalogue of the domain's items, copied instead of built")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2, help="of each saturation")
    parser.add_argument("--when-ready", default="", help="command put before the measuring process")
    parser.add_argument("--urls", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--page", action="store_true", help="only write README.md beside --out again")
    given = parser.parse_args()
    if given.page:
        write_page(given.out)
        return
    domain = read_domain(given.domain)
    if given.urls:
        urls = dict(zip(("batched", "one_by_one"), given.urls, strict=True))
        with tempfile.TemporaryDirectory() as place:
            results = {"about": about(domain), **measure(urls, domain, Path(place), given.seconds, given.rounds)}
        given.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        write_page(given.out)
        return
    run_servers(given)


def run_servers(given: argparse.Namespace) -> None:
    """Start both servers, then measure in a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sources = [folder / "first", folder / "second"]
        for source in sources:
            shutil.copytree(given.catalog or given.domain, source)
        with (
            server(given.model, sources[0], folder / "1.log") as batched,
            server(given.model, sources[1], folder / "2.log", batch=1) as single,
        ):
            again = [*given.when_ready.split(), sys.executable, *sys.argv, "--urls", batched, single]
            subprocess.run(again, check=True)


if __name__ == "__main__":
    main()
