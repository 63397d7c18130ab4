"""The mix of requests under which a service's memory is measured."""

from __future__ import annotations

import json
from collections import Counter

from xcrossrec import Domain
from xcrossrec_lab.service.memory import KINDS, Mix


def test_clients_ask_for_all_kinds_and_each_for_its_own(tiny_domain: Domain) -> None:
    mix, again, other = (Mix(tiny_domain, list(KINDS), seed) for seed in (1, 1, 2))
    asked = [mix() for _ in range(200)]
    assert set(Counter(kind for kind, _ in asked)) == set(KINDS)
    assert asked == [again() for _ in range(200)] != [other() for _ in range(200)]


def test_titles_are_new_and_ids_are_known(tiny_domain: Domain) -> None:
    mix = Mix(tiny_domain, ["score"], 0)
    bodies = [mix()[1][2] for _ in range(20)]
    titles = [each["title"] for body in bodies for each in body["candidates"]]
    assert len(set(titles)) == len(titles) == 400
    assert not set(titles) & set(tiny_domain.titles)
    assert {each["item_id"] for body in bodies for each in body["history"]} <= {*tiny_domain.items["item_id"]}
    json.dumps(bodies)
