"""Dropout by 16 random bits an entry: the ends of its range, and other devices."""

from __future__ import annotations

import torch

from xcrossrec.models.fast.texts import dropped


def test_a_share_of_nothing_or_all() -> None:
    states = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(dropped(states, 0.0), states)
    assert torch.equal(dropped(states, 1.0), torch.zeros(3, 5))


def test_other_devices_take_pytorchs_own() -> None:
    states = torch.ones(3, 5, device="meta")
    assert dropped(states, 0.5).device.type == "meta"
