"""Histories as text and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xcrossrec.exceptions import DataError
from xcrossrec.prompts import PROMPT_VERSION, UNTITLED, clean_title, history_prompt, item_texts, split_prompt

TITLES = st.lists(st.text().filter(lambda text: bool(text.strip())), min_size=1, max_size=5)


@given(titles=TITLES)
def test_a_prompt_splits_back_into_its_titles(titles: list[str]) -> None:
    assert split_prompt(history_prompt(titles)) == [clean_title(title) for title in titles]


@given(title=st.text())
def test_a_clean_title_is_one_line_and_stays_clean(title: str) -> None:
    clean = clean_title(title)
    assert len(clean.splitlines()) <= 1
    assert clean_title(clean) == clean


def test_the_template_of_version_1() -> None:
    assert PROMPT_VERSION == 1
    assert history_prompt(["Red  train", "Track,\n12 pieces"]) == "Red train\nTrack, 12 pieces"
    assert split_prompt("a\n\n b \n") == ["a", "b"]


def test_an_empty_history() -> None:
    with pytest.raises(DataError, match="the history is empty: give at least one item id or title"):
        history_prompt([])


@pytest.mark.parametrize("blank", ["", " ", "\n"])
def test_an_empty_title_is_named_by_its_place(blank: str) -> None:
    with pytest.raises(DataError, match="title 1 of the history is empty"):
        history_prompt(["a", blank, "b"])


def test_items_without_a_title_get_a_text_and_others_are_cleaned() -> None:
    assert item_texts(["Red  train", "", " \n"]) == ["Red train", UNTITLED, UNTITLED]
    assert history_prompt(item_texts([""])) == UNTITLED
