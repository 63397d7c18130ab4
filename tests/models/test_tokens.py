"""Titles to token ids: the oldest history is cut, never the candidate, and the cut is counted."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import BertTokenizerFast

from model_families import VOCABULARY, WORDS, Family, fresh_base
from xcrossrec.exceptions import DataError, ModelError
from xcrossrec.models.base import load_base
from xcrossrec.models.source import SourceEncoder
from xcrossrec.models.tokens import (
    CANDIDATE_END_SEGMENT,
    CANDIDATE_SEGMENT,
    CutReport,
    PromptTokenizer,
    tell_unread,
    token_limit,
    unread,
)

PAD, CLS, SEP, BETWEEN = (VOCABULARY.index(word) for word in ("[PAD]", "[CLS]", "[SEP]", ";"))
TITLES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join)
HISTORIES = st.lists(TITLES, min_size=1, max_size=6)


def tokens(text: str) -> list[int]:
    return [VOCABULARY.index(word) for word in text.split()]


def stub_tokenizer() -> Any:
    """Words by their number; what PromptTokenizer asks of a tokenizer, and no more."""

    class Stub:
        pad_token_id, eos_token_id = PAD, None
        model_max_length = 64

        def __call__(self, titles: Sequence[str], **settings: Any) -> dict[str, list[list[int]]]:
            bare = settings.pop("add_special_tokens", True) is False
            assert settings == {"verbose": False}
            found = [tokens(title) for title in titles]
            return {"input_ids": found if bare else [[CLS, *ids, SEP] for ids in found]}

    return Stub()


def prompts(max_tokens: int) -> PromptTokenizer:
    return PromptTokenizer(stub_tokenizer(), max_tokens)


def row(batch: dict[str, Tensor], number: int = 0) -> tuple[list[int], list[int]]:
    length = int(batch["attention_mask"][number].sum())
    assert batch["attention_mask"][number, :length].all()
    return batch["input_ids"][number, :length].tolist(), batch["segments"][number, :length].tolist()


def test_a_history_is_written_with_separators_and_segments() -> None:
    ids, segments = row(prompts(20).encode([["w1 w2", "w3"]]))
    assert ids == [CLS, *tokens("w1 w2"), BETWEEN, *tokens("w3"), SEP]
    assert segments == [0, 1, 1, 0, 2, 0]


def test_a_pair_ends_with_the_candidate() -> None:
    ids, segments = row(prompts(20).encode_pairs([["w1 w2", "w3"]], ["w4 w5"]))
    assert ids == [CLS, *tokens("w1 w2"), BETWEEN, *tokens("w3"), SEP, *tokens("w4 w5"), SEP]
    assert segments == [0, 1, 1, 0, 2, 0, CANDIDATE_SEGMENT, CANDIDATE_SEGMENT, CANDIDATE_END_SEGMENT]


def test_padding_is_marked() -> None:
    batch = prompts(20).encode([["w1 w2 w3"], ["w4"]])
    assert batch["input_ids"].tolist()[1] == [CLS, *tokens("w4"), SEP, PAD, PAD]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert batch["segments"].tolist()[1] == [0, 1, 0, 0, 0]


def test_an_empty_batch_is_empty() -> None:
    assert prompts(20).encode([])["input_ids"].shape == (0, 0)


def test_the_oldest_items_are_cut_and_counted() -> None:
    tokenizer = prompts(9)  # 7 for text: w3 w4 ; w5 w6 w7 fill 6
    ids, segments = row(tokenizer.encode([["w1", "w2", "w3 w4", "w5 w6 w7"]]))
    assert ids == [CLS, *tokens("w3 w4"), BETWEEN, *tokens("w5 w6 w7"), SEP]
    assert segments == [0, 1, 1, 0, 2, 2, 2, 0]
    assert tokenizer.cut == CutReport(prompts=1, items=2, titles=0)
    tokenizer.encode([["w1"], ["w2", "w3"]])
    assert tokenizer.cut == CutReport(prompts=1, items=2, titles=0)
    tokenizer.cut.reset()
    assert tokenizer.cut == CutReport()


def test_the_candidate_is_kept_whole_while_history_goes() -> None:
    tokenizer = prompts(10)  # 8 inside, the candidate and its end take 5
    ids, _ = row(tokenizer.encode_pairs([["w1 w2", "w3", "w4 w5"]], ["w6 w7 w8 w9"]))
    assert ids == [CLS, *tokens("w4 w5"), SEP, *tokens("w6 w7 w8 w9"), SEP]
    assert tokenizer.cut == CutReport(prompts=1, items=2, titles=0)


def test_a_lone_title_too_long_is_cut_at_its_end() -> None:
    tokenizer = prompts(8)
    ids, _ = row(tokenizer.encode([["w1", "w2 w3 w4 w5 w6 w7 w8 w9"]]))
    assert ids == [CLS, *tokens("w2 w3 w4 w5 w6 w7"), SEP]
    assert tokenizer.cut == CutReport(prompts=1, items=1, titles=1)


def test_a_candidate_too_long_for_the_model_is_cut_last() -> None:
    tokenizer = prompts(8)
    ids, segments = row(tokenizer.encode_pairs([["w1"]], ["w2 w3 w4 w5 w6 w7 w8"]))
    assert ids == [CLS, SEP, *tokens("w2 w3 w4 w5 w6"), SEP]
    assert segments == [0, 0, *[CANDIDATE_SEGMENT] * 5, CANDIDATE_END_SEGMENT]
    assert (tokenizer.cut.items, tokenizer.cut.titles) == (1, 1)


# ---- texts of more than titles: shortened before history goes


def test_long_texts_of_a_history_are_shortened_alike_before_the_oldest_go() -> None:
    tokenizer = PromptTokenizer(stub_tokenizer(), 14, least=2)  # 12 inside
    ids, _ = row(tokenizer.encode([["w1 w2 w3 w4 w5 w6", "w7", "w8 w9 w10 w11 w12 w13"]]))
    assert ids == [CLS, *tokens("w1 w2 w3 w4"), BETWEEN, *tokens("w7"), BETWEEN, *tokens("w8 w9 w10 w11"), SEP]
    assert tokenizer.cut == CutReport(prompts=1, shortened=2)
    ids, _ = row(tokenizer.encode([["w1 w2 w3", "w4 w5 w6", "w7 w8 w9", "w10 w11 w12", "w13 w14"]]))
    assert ids == [CLS, *tokens("w4 w5 ; w7 w8 ; w10 w11 ; w13 w14"), SEP]
    assert tokenizer.cut == CutReport(prompts=2, items=1, shortened=5)


def test_a_candidate_takes_half_the_room_where_the_history_needs_it() -> None:
    tokenizer = PromptTokenizer(stub_tokenizer(), 15, least=2)  # 12 inside, with the ends of both
    ids, _ = row(tokenizer.encode_pairs([["w1 w2 w3", "w4 w5 w6"]], ["w7 w8 w9 w10 w11 w12 w13 w14"]))
    assert ids == [CLS, *tokens("w1 w2"), BETWEEN, *tokens("w4 w5"), SEP, *tokens("w7 w8 w9 w10 w11 w12"), SEP]
    assert tokenizer.cut == CutReport(prompts=1, shortened=3)
    ids, _ = row(tokenizer.encode_pairs([["w1 w2"]], ["w7 w8 w9 w10 w11 w12 w13 w14"]))
    assert ids == [CLS, *tokens("w1 w2"), SEP, *tokens("w7 w8 w9 w10 w11 w12 w13 w14"), SEP]


@given(history=HISTORIES, candidate=TITLES, limit=st.integers(8, 40), least=st.integers(1, 9))
def test_shortening_keeps_at_least_as_many_items(history: list[str], candidate: str, limit: int, least: int) -> None:
    whole, short = prompts(limit), PromptTokenizer(stub_tokenizer(), limit, least=least)
    fits = len(row(prompts(400).encode_pairs([history], [candidate]))[0]) <= limit
    (before, _), (after, _) = (row(each.encode_pairs([history], [candidate])) for each in (whole, short))
    assert len(after) <= limit
    assert short.cut.items <= whole.cut.items
    assert (before == after) or not fits


@given(history=HISTORIES, limit=st.integers(8, 40))
def test_what_is_kept_is_the_longest_newest_part_that_fits(history: list[str], limit: int) -> None:
    tokenizer = prompts(limit)
    ids, segments = row(tokenizer.encode([history]))
    assert len(ids) <= limit
    kept = len(history) - tokenizer.cut.items
    assert max(segments) == kept >= 1
    if not tokenizer.cut.titles:
        expected = tokens(" ; ".join(history[-kept:]))
        assert ids == [CLS, *expected, SEP]
        if kept < len(history):
            assert len(tokens(" ; ".join(history[-kept - 1 :]))) > limit - 2
    assert tokenizer.cut.prompts == int(kept < len(history) or tokenizer.cut.titles > 0)


@given(history=HISTORIES, candidate=TITLES, limit=st.integers(12, 40))
def test_the_candidate_is_never_cut_for_the_history(history: list[str], candidate: str, limit: int) -> None:
    ids, segments = row(prompts(limit).encode_pairs([history], [candidate]))
    assert len(ids) <= limit
    tail = [i for i, s in zip(ids, segments, strict=True) if s == CANDIDATE_SEGMENT]
    assert tail == tokens(candidate)  # at most 9 words
    assert ids[-1] == SEP


@given(batch=st.lists(HISTORIES, min_size=1, max_size=4), limit=st.integers(8, 24))
def test_batching_changes_no_row(batch: list[list[str]], limit: int) -> None:
    together = prompts(limit).encode(batch)
    for number, history in enumerate(batch):
        assert row(together, number) == row(prompts(limit).encode([history]))


def test_too_small_a_limit() -> None:
    with pytest.raises(ModelError, match="max_tokens is 7: give at least 8"):
        prompts(7)


def test_a_tokenizer_without_padding_fills_up_with_what_the_mask_leaves_out() -> None:
    tokenizer = stub_tokenizer()
    tokenizer.pad_token_id = None
    batch = PromptTokenizer(tokenizer, 20).encode([["w1 w2"], ["w3"]])
    assert row(batch, 0)[0] == [CLS, *tokens("w1 w2"), SEP]
    assert row(batch, 1)[0] == [CLS, *tokens("w3"), SEP]


def test_a_tokenizer_whose_frame_cannot_be_told() -> None:
    def reads(titles: Sequence[str], add_special_tokens: bool = True, **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[CLS, 7, SEP] if add_special_tokens else [9] for _ in titles]}

    stub = types.SimpleNamespace(pad_token_id=PAD, eos_token_id=None)
    tokenizer: Any = type("Odd", (), {**vars(stub), "__call__": lambda self, titles, **how: reads(titles, **how)})()
    with pytest.raises(ModelError, match=r"tokenizer Odd reads ';' as \[2, 7, 3\], alone as \[9\]"):
        PromptTokenizer(tokenizer, 20)


def test_a_prompt_stands_before_the_first_title_that_is_kept() -> None:
    cut = prompts(9)
    ids, segments = row(cut.encode([["w1", "w2 w3", "w4"]], ["w9 w8 "]))
    assert ids == [CLS, *tokens("w9 w8 w2 w3"), BETWEEN, *tokens("w4"), SEP]
    assert segments == [0, 0, 0, 1, 1, 0, 2, 0]
    assert (cut.cut.prompts, cut.cut.items, cut.cut.titles) == (1, 1, 0)
    ids, segments = row(cut.encode([["w1 w2 w3 w4 w5 w6 w7"]], ["w9 w8 "]))
    assert ids == [CLS, *tokens("w9 w8 w1 w2 w3 w4 w5"), SEP]
    assert segments == [0, 0, 0, 1, 1, 1, 1, 1, 0]
    assert cut.cut.titles == 1


def test_the_prompts_of_a_pair_belong_to_no_title() -> None:
    pair = prompts(20).encode_pairs([["w1", "w2"]], ["w3"], "w9 ", "w8 ")
    ids, segments = row(pair)
    assert ids == [CLS, *tokens("w9 w1"), BETWEEN, *tokens("w2"), SEP, *tokens("w8 w3"), SEP]
    end = CANDIDATE_END_SEGMENT
    assert segments == [0, 0, 1, 0, 2, 0, end, CANDIDATE_SEGMENT, end]
    shared = prompts(20).encode_shared([["w1", "w2"]], ["w3"], "w9 ", "w8 ")
    assert shared["input_ids"][0].tolist() == ids
    assert shared["segments"][0].tolist() == segments


def test_an_empty_text_is_its_prompt_between_start_and_end() -> None:
    batch = prompts(20).encode([[], []], ["", "w9 "])
    assert row(batch, 0)[0] == [CLS, SEP]
    assert row(batch, 1)[0] == [CLS, *tokens("w9"), SEP]


# ---- the longest text of each family


def test_each_family_takes_its_longest_text(family: Family, base_of: Callable[[str], Path]) -> None:
    base = fresh_base(base_of(family.name))
    assert token_limit(base.tokenizer, base.backbone.config, None) == family.tokens
    with pytest.raises(ModelError, match=f"max_tokens is 65, but the model takes at most {family.tokens}"):
        token_limit(base.tokenizer, base.backbone.config, family.tokens + 1)
    encoder = SourceEncoder(base)
    features = encoder.preprocess(["\n".join(["w1 w2 w3"] * 40)])
    assert features["input_ids"].shape[1] >= family.tokens - 4
    assert encoder.cut.items > 20
    full = encoder.preprocess([" ".join(["w1"] * 100)])
    assert full["input_ids"].shape[1] == family.tokens
    with torch.no_grad():
        assert encoder(full)["token_embeddings"].isfinite().all()


def test_the_tokenizers_limit_counts_too() -> None:
    config = types.SimpleNamespace(model_type="deberta-v2", max_position_embeddings=0)
    tokenizer = types.SimpleNamespace(model_max_length=100)
    assert token_limit(tokenizer, config, None) == 100
    assert token_limit(tokenizer, config, 30) == 30
    tokenizer.model_max_length = 10**30
    assert token_limit(tokenizer, config, None) == 256
    assert token_limit(tokenizer, config, 512) == 512


# ---- what the encoder accepts


@pytest.fixture(scope="module")
def encoder(base_of: Callable[[str], Path]) -> SourceEncoder:
    return SourceEncoder(fresh_base(base_of("bert")))


def test_preprocess_tells_prompts_from_pairs(encoder: SourceEncoder) -> None:
    ids, segments = row(encoder.preprocess(["w1\nw2"]))
    assert (ids, segments) == ([CLS, *tokens("w1 ; w2"), SEP], [0, 1, 0, 2, 0])
    assert row(encoder.preprocess([("w1\nw2", " w3\nw4 ")]))[0] == [CLS, *tokens("w1 ; w2"), SEP, *tokens("w3 w4"), SEP]
    assert row(encoder.preprocess(["w2"], prompt="w1 "))[0] == [CLS, *tokens("w1 w2"), SEP]


@pytest.mark.parametrize("value", [None, float("nan"), np.nan, 3, b"w1"])
def test_what_is_no_text_is_refused(encoder: SourceEncoder, value: Any) -> None:
    with pytest.raises(DataError, match=r"expected a title or a prompt as text, got .*: clean the titles first"):
        encoder.preprocess(["w1", value])
    with pytest.raises(DataError, match="expected a title or a prompt as text"):
        encoder.preprocess([("w1", value)])


@pytest.mark.parametrize("value", ["", "  ", "\n\t"])
def test_an_empty_text_is_read_as_one_but_not_in_a_pair(encoder: SourceEncoder, value: str) -> None:
    assert row(encoder.preprocess(["w1", value]), 1)[0] == [CLS, SEP]
    with pytest.raises(DataError, match="got an empty text: give a title, or leave the item out"):
        encoder.preprocess([(value, "w1")])
    with pytest.raises(DataError, match="got an empty text"):
        encoder.preprocess([("w1", value)])


# ---- languages that a base cannot read

TITLES_OF = {
    "english": ("Stainless steel watering can", "Wireless noise cancelling headphones", "Organic green tea"),
    "german": ("Edelstahl Gießkanne", "Kabellose Kopfhörer mit Geräuschunterdrückung", "Bio Grüntee"),
    "russian": ("Лейка из нержавеющей стали", "Беспроводные наушники", "Зеленый чай"),
    "hindi": ("स्टेनलेस स्टील का डिब्बा", "वायरलेस हेडफ़ोन काला", "ग्रीन टी"),
    "thai": ("บัวรดน้ำสแตนเลส", "หูฟังไร้สายตัดเสียงรบกวน", "ชาเขียว"),
    "japanese": ("ステンレスじょうろ", "ワイヤレスヘッドホン 黒", "有機緑茶 ティーバッグ"),
    "chinese": ("不锈钢浇水壶", "无线降噪耳机黑色", "有机绿茶"),
    "korean": ("스테인리스 물뿌리개", "무선 헤드폰 블랙", "유기농 녹차"),
    "arabic": ("إبريق سقي ستانلس ستيل", "سماعات لاسلكية", "شاي أخضر عضوي"),
}


@pytest.mark.integration
@pytest.mark.parametrize("language", TITLES_OF)
def test_the_embedded_base_says_what_it_cannot_read(language: str, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = load_base().tokenizer
    share, read = unread(tokenizer, TITLES_OF[language]), language in ("english", "german")
    assert share < 0.1 if read else share > 0.7
    said = tell_unread(f"base of {language}", tokenizer, TITLES_OF[language] * 4)
    assert (said == "") is read
    if not read:
        assert tell_unread(f"base of {language}", tokenizer, TITLES_OF[language] * 4) == said
        assert caplog.messages == [said]  # once
        assert f"hardly reads these texts: {share:.0%} of their letters are unknown to it or read one by one" in said
        assert "a multilingual one (--base), such as sentence-transformers/paraphrase-multilingual" in said


def test_a_base_that_has_the_words_reads_them() -> None:
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "лампа", "不", "锈", "钢"]
    words = BertTokenizerFast(vocab={word: number for number, word in enumerate(known)})
    assert unread(words, ["лампа", "不锈钢", "42"]) == 0
    assert unread(words, ["лампа чай"]) == pytest.approx(3 / 8)
    assert unread(words, []) == unread(words, ["42"]) == unread(object(), ["x"]) == 0
    assert tell_unread("few", words, ["чай"] * 9) == ""
