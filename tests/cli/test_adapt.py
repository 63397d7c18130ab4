"""What `adapt` prints at its end."""

from __future__ import annotations

from pathlib import Path

from tests.adaptation.decisions import garden

from xcrossrec.adaptation.decision import Risk
from xcrossrec.cli.adapt import as_text


def test_behind_the_verdict_stands_what_makes_its_number_another_one_than_it_seems() -> None:
    sentences = {
        "same_moment": "garden (test): 9 of 20 targets have the same time as the item before them.",
        "common_item": "garden (test): 1 items are bought by more than a third of all.",
        "heavy_user": "garden: 2 users have 3,879 purchases.",
    }
    others = [
        Risk(code="same_moment", sentence="kitchen (test): 9 of 20 targets."),
        Risk(code="target_in_history", sentence="garden (train): 9 of 20 targets."),
        Risk(code="duplicate_title", sentence="garden: 14 items share their title."),
    ]
    risks = (*(Risk(code=code, sentence=sentence) for code, sentence in sentences.items()), *others)
    text = as_text(garden(risks=risks), Path("out"))
    verdict = text.index(garden().verdict[1])
    assert all(text.index(f"But {sentence}") > verdict for sentence in sentences.values())
    assert not any(each.sentence in text for each in others)
