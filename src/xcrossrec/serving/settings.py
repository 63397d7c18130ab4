"""An operator's settings: limits, address, keys."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

from xcrossrec.exceptions import ConfigError
from xcrossrec.types import EncodingPrecision

API_KEYS = "XCROSSREC_API_KEYS"
"""Environment variable: keys that may read, separated by commas."""

ADMIN_KEYS = "XCROSSREC_ADMIN_KEYS"
"""Environment variable: keys that may also write items and replace models, separated by commas."""

SHORTEST_KEY = 16
"""Characters of a key, at least."""

_PROCESSORS = Path("/sys/fs/cgroup/cpu.max")
"""A container's limit of processor time: the allowed time, and the period."""

_OF_KUBERNETES = re.compile(r"XCROSSREC_(\w+_)?(SERVICE_(HOST|PORT)|PORT(_\d+_|=\w+://))")
"""Variables, as NAME=VALUE, that Kubernetes sets for Services called ``xcrossrec`` or ``xcrossrec-...``."""

_OPTIONS = {"INSECURE", "LOG_TITLES", "PRECISION"}
"""What only an option of ``serve`` sets, no variable."""


@dataclass(frozen=True)
class Spec:
    """A model to serve.

    Attributes:
        name: by which requests choose it.
        catalog: a catalogue, or a domain's folder or a table to make it from; a database's URL is text.
    """

    name: str
    path: Path
    catalog: Path | str
    precision: EncodingPrecision = "fp32"


@dataclass(frozen=True)
class Settings:
    """Every setting of a service, with its default; docs/operate.md says what each means."""

    host: str = "127.0.0.1"
    port: int = 8000
    queue: int = 128
    batch: int = 32
    batch_wait_ms: float = 2.0
    timeout_s: float = 10.0
    body_timeout_s: float = 10.0
    header_timeout_s: float = 10.0
    idle_timeout_s: float = 75.0
    header_bytes: int = 32 * 1024
    header_count: int = 100
    connections: int = 4000
    search_timeout_s: float = 2.0
    request_bytes: int = 2 * 1024 * 1024
    depth: int = 32
    history: int = 100
    k: int = 1000
    candidates: int = 10_000
    pair_candidates: int = 2000
    texts: int = 256
    waiting_texts: int = 8192
    remembered: int = 4096
    explained: int = 10
    upsert: int = 1000
    drain_s: float = 0.5
    stop_s: float = 30.0
    threads: int = 0
    base: str | None = None
    log_titles: bool = False
    insecure: bool = False
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    admin_keys: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        for each in fields(self):
            least = 0.001 if each.name.endswith("_s") else 1
            least = 0 if each.name in ("batch_wait_ms", "drain_s", "threads", "port", "remembered") else least
            most = {"port": 65_535, "threads": 1024}.get(each.name, 1e9)  # no clock accepts infinity
            if each.type in ("int", "float") and not least <= getattr(self, each.name) <= most:
                found = f"the setting {each.name} is {getattr(self, each.name)}"
                raise ConfigError(f"{found}: give at least {least:g}, at most {most:g}")
        for place, key in enumerate((*self.api_keys, *self.admin_keys), start=1):
            if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or key[0] in "\"'":
                raise ConfigError(
                    f"API key number {place} has {len(key)} characters: give at least {SHORTEST_KEY}, printable ASCII, "
                    "the first no quotation mark (a file of docker's --env-file takes none around a value), "
                    'for example from  python -c "import secrets; print(secrets.token_urlsafe())"'
                )
        if not is_loopback(self.host) and not self.insecure and not (self.api_keys and self.admin_keys):
            raise ConfigError(
                f"host {self.host} can be reached by others and no keys are set: set {API_KEYS} and {ADMIN_KEYS}, or "
                "listen at 127.0.0.1; --insecure serves everybody, writes too"
            )

    @classmethod
    def read(cls, environment: Mapping[str, str], **given: Any) -> Self:
        """Read keys, and numbers that are not given, from the environment.

        A number's variable is ``XCROSSREC_`` and its name in capitals, as ``XCROSSREC_UPSERT=500``. ConfigError: not a
        number, outside its range, or a misspelled name.
        """
        environment = {name: of for name, of in environment.items() if not _OF_KUBERNETES.match(f"{name}={of}")}
        known = {*(each.name.upper() for each in fields(cls)), "FAST"} - _OPTIONS
        others = (name.removeprefix("XCROSSREC_") for name in environment if name.startswith("XCROSSREC_"))
        for other in sorted({*others} - known):
            close = get_close_matches(other, known | _OPTIONS, 1, 0.82)
            for meant in close or [name for name in known if name.endswith(f"_{other}")]:
                right = f"--{meant.lower().replace('_', '-')}" if meant in _OPTIONS else f"XCROSSREC_{meant}"
                raise ConfigError(f"XCROSSREC_{other} is set and is no setting: {right} is one")
        kinds = {"int": int, "float": float}
        for each in fields(cls):
            variable = f"XCROSSREC_{each.name.upper()}"
            if each.type in kinds and each.name not in given and variable in environment:
                try:
                    given[each.name] = kinds[str(each.type)](environment[variable])
                except ValueError:
                    said = f"{variable} is {environment[variable]!r}: set a{' whole' * (each.type == 'int')} number"
                    raise ConfigError(f"{said}, or leave it unset") from None
        given["api_keys"], given["admin_keys"] = keys_of(environment, API_KEYS), keys_of(environment, ADMIN_KEYS)
        return cls(**given)

    @property
    def processor_threads(self) -> int:
        """Threads that torch may use: all cores but one, which is left to the event loop."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with suppress(OSError, ValueError):  # a container's limit: "200000 100000" or "max ..."
            allowed, period = map(int, _PROCESSORS.read_text("ascii").split())
            cores = min(cores, -(-allowed // period))
        return self.threads or max(1, cores - 1)


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine alone."""
    with suppress(ValueError):
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    return False


def keys_of(environment: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Read keys that are separated by commas."""
    return tuple(key.strip() for key in environment.get(name, "").split(",") if key.strip())
