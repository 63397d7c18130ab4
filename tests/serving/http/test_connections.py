"""Connections that are idle, half-sent, too large or too many, on a real socket."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import uvloop

from xcrossrec.exceptions import ConfigError
from xcrossrec.serving import connections, gate
from xcrossrec.serving.app import create_app
from xcrossrec.serving.server import Server, bind

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
WHOLE = HEAD + b"\r\n"


class Wire:
    """A server that listens, and its clients."""

    def __init__(self, server: Server, port: int) -> None:
        self.server, self.port = server, port
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> Streams:
        streams = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(streams[1])
        return streams

    async def hang_up(self) -> None:
        """Close all that were opened."""
        for writer in self._writers:
            writer.transport.abort()
        await self.open_connections(0)

    async def ask(self, sent: bytes = WHOLE) -> tuple[int, Any]:
        """Send something on a connection of its own; the status and what is said, 0 where nothing is."""
        streams = await self.connect()
        with suppress(ConnectionError):
            streams[1].write(sent)
            await streams[1].drain()
        return await answer(streams)

    async def open_connections(self, count: int) -> None:
        """Wait until there are so many."""
        async with asyncio.timeout(20):
            while len(self.server.server_state.connections) != count:
                await asyncio.sleep(0.005)


async def answer(streams: Streams) -> tuple[int, Any]:
    """Read one answer: its status and its body; 0 where the connection ends without one."""
    try:
        head = (await streams[0].readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        return int(head.split()[1]), json.loads(await streams[0].readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0, None


@pytest.fixture
def on_wire(open_shop: Any, tiny_models: Any) -> Callable[..., None]:
    """Let a scene play against a server with some settings."""

    def play(scene: Callable[[Wire], Awaitable[None]], **settings: Any) -> None:
        with open_shop({"toys": tiny_models.late}, drain_s=0, **settings) as shop, bind("127.0.0.1", 0) as listener:
            server = Server(shop.service, create_app(shop.service))
            listener.listen()

            async def whole() -> None:
                serving = asyncio.create_task(server.serve([listener]))
                while not server.started:
                    await asyncio.sleep(0.005)
                try:
                    async with asyncio.timeout(60):
                        await scene(wire := Wire(server, listener.getsockname()[1]))
                        await wire.hang_up()
                finally:
                    server.should_exit = server.force_exit = True
                    await serving

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(whole())

    return play


def ended(wire: Wire, reason: str) -> float:
    return float(wire.server.shared.metrics.ended.labels(reason)._value.get())


def test_idle_and_half_sent_connections_are_gone_after_their_time(on_wire: Any) -> None:
    async def scene(wire: Wire) -> None:
        streams = []
        for number in range(500):
            streams.append(await wire.connect())
            streams[-1][1].write((b"", HEAD, b"POST /v1/recommend HT", WHOLE)[number % 4])
        assert [(await answer(each))[0] for each in streams[3::4]] == [200] * 125
        assert [await answer(each) for each in streams[0::4]] == [(0, None)] * 125
        for each in (*streams[1::4], *streams[2::4]):
            status, said = await answer(each)
            assert status == 408
            assert "head was not complete after 0.4 s" in said["error"]["message"]
        assert [await each[0].read() for each in streams[3::4]] == [b""] * 125
        assert (ended(wire, "idle"), ended(wire, "slow")) == (250, 250)

    on_wire(scene, header_timeout_s=0.4, idle_timeout_s=0.6)


def test_a_head_that_drips_has_no_more_time(on_wire: Any) -> None:
    async def scene(wire: Wire) -> None:
        reader, writer = streams = await wire.connect()
        found = asyncio.ensure_future(answer(streams))
        for byte in WHOLE * 100:
            if found.done():
                break
            with suppress(ConnectionError):
                writer.write(bytes([byte]) if byte != 10 else b"")
            await asyncio.sleep(0.02)
        assert (await found)[0] in (400, 408)
        assert await reader.read() == b""
        assert (await wire.ask())[0] == 200

    on_wire(scene, header_timeout_s=0.2)


LARGE_HEADS = [
    HEAD + b"X-Many: 1\r\n" * 150 + b"\r\n",
    HEAD + b"X-Large: " + b"x" * 9000 + b"\r\n\r\n",
    b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n",
    HEAD + b"X-Endless: " + b"x" * 200_000,
    HEAD + b"X-" + b"e" * 200_000,
    HEAD + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 2000) for n in range(50)),
]
TRAILER = (
    b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Type: application/json\r\n\r\n0\r\nX-Trailer: " + b"x" * 200_000
)


def test_a_large_head_is_refused(on_wire: Any) -> None:
    async def scene(wire: Wire) -> None:
        for number, sent in enumerate(LARGE_HEADS, start=1):
            status, said = await wire.ask(sent)
            assert status == 431, sent[:100]
            assert "more than 8000 bytes or 100 headers" in said["error"]["message"]
            assert ended(wire, "large") == number
        assert (await wire.ask(TRAILER))[0] == 431
        assert ended(wire, "large") == len(LARGE_HEADS) + 1
        assert (await wire.ask(HEAD + b"X-Fits: " + b"x" * 7000 + b"\r\n\r\n"))[0] == 200
        assert (await wire.ask(HEAD + b"X-Few: 1\r\n" * 90 + b"\r\n"))[0] == 200

    on_wire(scene, header_bytes=8000)


ASKED = b'{"history": [{"item_id": "i0"}], "k": 1}'
POST = b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_a_wish_for_another_protocol_is_passed_over(on_wire: Any) -> None:
    """As Java's client and ``curl --http2`` send it with every first request."""
    wish = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
    length = b"Content-Length: %d\r\n\r\n" % len(ASKED)
    whole = POST + wish + length + ASKED

    async def scene(wire: Wire) -> None:
        for parts in ([whole], [POST + wish + length, ASKED], [POST + wish, length + ASKED[:5], ASKED[5:]]):
            streams = await wire.connect()
            for part in parts:
                streams[1].write(part)
                await asyncio.sleep(0.02)
            status, said = await answer(streams)
            assert (status, len(said["items"])) == (200, 1)
            streams[1].write(WHOLE)
            assert (await answer(streams))[0] == 200
        streams = await wire.connect()
        streams[1].write(whole * 200 + WHOLE)
        assert [(await answer(streams))[0] for _ in range(201)] == [200] * 201
        assert (await wire.ask(b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n"))[0] == 400

    on_wire(scene)


def test_a_body_that_breaks_off_is_told_why(on_wire: Any) -> None:
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%s\r\n" % (len(ASKED), ASKED)

    async def scene(wire: Wire) -> None:
        for rest in (b"zz\r\n", b"-5\r\n", b"F" * 17 + b"\r\n", chunk + b"zz\r\n"):
            streams = await wire.connect()
            streams[1].write(chunked)
            await asyncio.sleep(0.02)
            streams[1].write(rest)
            status, said = await answer(streams)
            assert status == 400
            assert "check its method, address, headers and chunk sizes" in said["error"]["message"]
            assert await streams[0].read() == b""
        assert ended(wire, "wrong") == 4
        assert (await wire.ask(chunked + chunk + b"0\r\n\r\n"))[0] == 200

    on_wire(scene)


def memory() -> int:
    """Bytes that this process, server and client, holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="memory is read in /proc, as Linux has it")
def test_a_hundred_megabytes_of_headers_cost_no_memory(on_wire: Any) -> None:
    block = b"".join(b"X-%d: %s\r\n" % (n, b"x" * 1000) for n in range(1000))
    endless = block.replace(b"\r\n", b"")

    async def scene(wire: Wire) -> None:
        await wire.ask(LARGE_HEADS[0])
        before, most = memory(), 0
        for start, sent in ((HEAD, block), (HEAD + b"X-Endless: ", endless)):
            _, writer = await wire.connect()
            writer.write(start)
            with suppress(ConnectionError):
                for _ in range(100):
                    writer.write(sent)
                    await writer.drain()
                    most = max(most, memory())
        print(f"{(most - before) / 1e6:.2f} MB")
        assert most - before < 5_000_000
        assert (await wire.ask())[0] == 200

    on_wire(scene)


def test_a_new_connection_takes_the_place_of_the_one_that_idles_longest(on_wire: Any, caplog: Any) -> None:
    async def scene(wire: Wire) -> None:
        idle = [await wire.connect() for _ in range(40)]
        assert (await wire.ask())[0] == 200
        assert await answer(idle[0]) == (0, None)
        await wire.open_connections(10)
        assert ended(wire, "room") == 31
        assert "xcrossrec_connections 10.0" in wire.server.shared.metrics.text().decode()

    with caplog.at_level(logging.WARNING, "xcrossrec.serving.connections"):
        on_wire(scene, connections=10)
    assert "connections ended by the server" in caplog.text
    assert next(record.facts for record in caplog.records if hasattr(record, "facts")) == {
        "ended": {"room": 1},
        "most": 10,
    }


def test_where_all_are_being_answered_a_new_one_is_told_so(on_wire: Any) -> None:
    async def scene(wire: Wire) -> None:
        asking = [await wire.connect() for _ in range(10)]
        for _, writer in asking:  # their bodies are awaited
            writer.write(
                b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 9\r\n\r\n{"
            )
        async with asyncio.timeout(20):
            while sum(c.deadline == float("inf") for c in wire.server.server_state.connections) < 10:
                await asyncio.sleep(0.005)
        status, said = await wire.ask()
        assert status == 503
        assert "10 connections are being answered" in said["error"]["message"]
        assert ended(wire, "full") == 1
        await wire.hang_up()
        assert (await wire.ask())[0] == 200

    on_wire(scene, connections=10)


def test_a_client_that_does_not_read_is_not_kept(on_wire: Any) -> None:
    async def scene(wire: Wire) -> None:
        _, writer = await wire.connect()
        with suppress(ConnectionError):
            for _ in range(400):
                writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10)
            await wire.open_connections(0)
        assert (await wire.ask())[0] == 200

    on_wire(scene, idle_timeout_s=0.3)


def test_no_more_connections_than_files(monkeypatch: pytest.MonkeyPatch) -> None:
    used = len(list(Path("/dev/fd").iterdir()))
    for limit, most in ((used + 100, 76), (10_000, 1000), (resource.RLIM_INFINITY, 1000)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert connections._most_connections(1000) == pytest.approx(most, abs=2)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (used + 24, used + 24))
    with pytest.raises(ConfigError, match=r"raise the limit \(ulimit -n"):
        connections._most_connections(1000)


def asked(history: list[dict[str, str]], *headers: str) -> bytes:
    body = json.dumps({"history": history}).encode()
    lines = ["POST /v1/recommend HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def test_a_request_without_room_is_refused_and_its_connection_goes_on(on_wire: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(connections, "HOLD_S", 0.01)
    monkeypatch.setattr(gate, "HOLD_S", 0.01)
    title = asked([{"title": "A wooden train"}])

    async def scene(wire: Wire) -> None:
        room = wire.server.service.room
        with ExitStack() as inside:
            while not room.is_full("/v1/score", b'"title"'):
                inside.enter_context(room.taken("/v1/score", b'"title"'))
            streams = await wire.connect()
            streams[1].write(title + title + WHOLE)  # the second and the third wait for the first one's answer
            for _ in range(2):
                status, said = await answer(streams)
                assert (status, said["error"]["code"]) == (429, "busy")
                assert "requests are being answered and no more may be" in said["error"]["message"]
            assert await answer(streams) == (200, {"status": "ok"})
            streams[1].write(title[:-5])  # the application reads it in parts
            await asyncio.sleep(0.02)
            streams[1].write(title[-5:])
            assert (await answer(streams))[0] == 429
            assert (await wire.ask(asked([{"item_id": "nobody's"}])))[0] == 404  # ids have room of their own
            last = await wire.connect()
            last[1].write(asked([{"title": "A wooden train"}], "Connection: close"))
            assert (await answer(last))[0] == 429
            assert await last[0].read() == b""
            gone = await wire.connect()
            gone[1].write(title)
            gone[1].transport.abort()
        streams[1].write(title)
        assert (await answer(streams))[0] == 200
        refused = wire.server.shared.metrics.text().decode()
        assert 'xcrossrec_requests_total{method="POST",route="refused",status="429"} ' in refused

    on_wire(scene)


def test_a_request_names_its_host(on_wire: Any) -> None:
    async def scene(wire: Wire) -> None:
        status, said = await wire.ask(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert (status, said["error"]["message"]) == (400, "the request has 0 Host headers: send one")
        assert (await wire.ask(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n"))[0] == 200

    on_wire(scene)


def test_requests_ahead_of_their_answers_are_few(on_wire: Any) -> None:
    async def scene(wire: Wire) -> None:
        streams = await wire.connect()
        streams[1].write(WHOLE * 50)
        assert [await answer(streams) for _ in range(50)] == [(200, {"status": "ok"})] * 50
        flood = await wire.connect()
        flood[1].write(WHOLE * 1200)
        assert [await answer(flood) for _ in range(257)] == [(200, {"status": "ok"})] * 257
        status, said = await answer(flood)
        assert (status, said["error"]["code"]) == (429, "ahead")
        assert "256 requests wait on this connection and no more may: read their answers" in said["error"]["message"]
        assert await flood[0].read() == b""
        assert ended(wire, "large") == 1
        assert (await wire.ask())[0] == 200

    on_wire(scene)


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        (b'"}', 400),  # the rest of a body whose length was told too small
        (b"nothing\r\n\r\n", 400),
        (b"\x16\x03\x01", 400),
        (HEAD + b"X-Large: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),  # its head is whole, its body is wrong
    ],
)
def test_what_came_whole_is_answered_before_the_rest_is_refused(on_wire: Any, wrong: bytes, status: int) -> None:
    whole = POST + b"Content-Length: %d\r\n\r\n" % len(ASKED) + ASKED

    async def scene(wire: Wire) -> None:
        for before in ([whole], [WHOLE, whole], [whole] * 20):
            streams = await wire.connect()
            streams[1].write(b"".join(before) + wrong)
            assert [(await answer(streams))[0] for _ in before] == [200] * len(before)
            refused, said = await answer(streams)
            assert refused == status, said
            assert await streams[0].read() == b""
        assert (await wire.ask())[0] == 200
        assert ended(wire, "wrong") + ended(wire, "large") == 3

    on_wire(scene)


def test_bodies_that_come_in_take_no_endless_room(on_wire: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_BODIES", 3)

    async def scene(wire: Wire) -> None:
        head = b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        streams = []
        for _ in range(5):
            streams.append(await wire.connect())
            streams[-1][1].write(head + b"Content-Length: 200000\r\n\r\n" + b" " * 190_000)
        done, rest = await asyncio.wait([asyncio.ensure_future(answer(each)) for each in streams], timeout=1)
        assert len(rest) == 3
        for status, said in (each.result() for each in done):
            assert (status, said["error"]["message"]) == (429, "too much is being sent at once: ask again in a second")
        assert (await wire.ask(asked([{"item_id": "i0"}])))[0] == 200  # a small one is always taken
        for each in rest:
            each.cancel()

    on_wire(scene, request_bytes=200_000)
