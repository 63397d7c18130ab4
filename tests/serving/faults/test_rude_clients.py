"""Clients that hang up or are slow, around a real server process: nobody else waits for them."""

from __future__ import annotations

import json
import socket
import statistics
import struct
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from .conftest import recommend

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT's, on loading


def raw_request(server: Any, body: bytes, *, length: int | None = None) -> bytes:
    lines = ["POST /v1/recommend HTTP/1.1", f"Host: 127.0.0.1:{server.port}", "Content-Type: application/json"]
    head = "\r\n".join([*lines, f"Content-Length: {length or len(body)}"])
    return head.encode() + b"\r\n\r\n" + body


def connect(server: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def hang_up(connection: socket.socket) -> None:
    """Close with a reset: whatever the server sends from now on fails."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def open_files(server: Any) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="open files are counted in /proc, as Linux has it")
def test_clients_that_hang_up_cost_nobody_else_an_answer(start_server: Any, tiny_models: Any, catalogue: Path) -> None:
    server = start_server(tiny_models.late, "--catalog", catalogue)
    body = json.dumps({"history": [{"title": "blue drill and a title that nobody has"}]}).encode()
    with server.client() as client:
        expected = recommend(client, "blue drill").json()["items"]
        before = open_files(server)
        sent = [raw_request(server, body), raw_request(server, body[:10], length=len(body)), b"POST /v1/recomm", b""]
        for number in range(150):
            connection = connect(server)
            connection.sendall(sent[number % len(sent)])
            hang_up(connection)
            if number % 25 == 0:
                assert recommend(client, "blue drill").json()["items"] == expected
        until = time.monotonic() + 30
        while open_files(server) > before:
            assert time.monotonic() < until, "connections were left open"
            time.sleep(0.02)
        assert recommend(client, "blue drill").json()["items"] == expected
        assert client.get("/readyz").status_code == 200
    server.stop()
    assert not [line for line in server.process.lines() if "Traceback" in line or '"level": "error"' in line.lower()]


def read_refusal(connection: socket.socket) -> bytes:
    """Read until the sentence is there, or the server has closed."""
    answer = b""
    while b'"message"' not in answer and (chunk := connection.recv(4096)):
        answer += chunk
    return answer


def test_slow_clients_are_cut_off_and_hold_up_nobody(start_server: Any, tiny_models: Any, catalogue: Path) -> None:
    server = start_server(tiny_models.late, "--catalog", catalogue, environment={"XCROSSREC_BODY_TIMEOUT_S": "1"})
    body = json.dumps({"history": [{"title": "blue drill"}]}).encode()
    times = []
    with ExitStack() as stack, server.client() as client:
        slow = [stack.enter_context(connect(server)) for _ in range(60)]
        for connection in slow[:30]:
            connection.sendall(raw_request(server, body[:5], length=len(body)))
        for connection in slow[30:]:
            connection.sendall(raw_request(server, body)[:20])
        for number in range(30):
            started = time.perf_counter()
            assert recommend(client, "blue drill").status_code == 200
            times.append(time.perf_counter() - started)
            slow[number].sendall(body[5:6])
        for connection in slow[:30]:
            answer = read_refusal(connection)
            assert answer.startswith(b"HTTP/1.1 408"), answer
            assert b"not complete after 1 s" in answer, answer
        for connection in slow[30:]:  # late, but complete: still answered
            connection.sendall(raw_request(server, body)[20:])
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
    assert statistics.median(times) < 1
    server.stop()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="open files are counted in /proc, as Linux has it")
def test_idle_connections_take_no_descriptor_that_is_needed(
    start_server: Any, tiny_models: Any, catalogue: Path
) -> None:
    server = start_server(tiny_models.late, "--catalog", catalogue, files=64)
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(connect(server))
        for _ in range(5):
            with server.client() as client:
                assert recommend(client, "blue drill").status_code == 200
                item = {"item_id": "new", "title": "green drill"}
                assert client.put("/v1/items", json={"items": [item]}).status_code == 200
        assert open_files(server) < 64
    server.stop()
    (told,) = [line for line in server.process.lines() if "connections ended by the server" in line][:1]
    assert json.loads(told)["ended"].keys() == {"room"}
