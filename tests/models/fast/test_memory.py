"""Telling the allocator to keep freed memory."""

from __future__ import annotations

import platform

import pytest

from xcrossrec.models.fast.native import keep_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_glibc_accepts_the_settings() -> None:
    assert keep_freed_memory.__wrapped__()


@pytest.mark.parametrize(("system", "libc"), [("Darwin", ""), ("Linux", "musl")])
def test_other_systems_are_left_alone(system: str, libc: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "libc_ver", lambda: (libc, "2"))
    assert not keep_freed_memory.__wrapped__()
