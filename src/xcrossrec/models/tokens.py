"""From titles to padded token ids: where the oldest history is cut, never the candidate."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple
from unicodedata import category

import torch
from torch import Tensor

from xcrossrec.data.text import is_han
from xcrossrec.exceptions import ModelError
from xcrossrec.prompts import TITLE_SEPARATOR

CANDIDATE_SEGMENT = -1
"""Marks the candidate's tokens in ``segments``; history items count from 1 (oldest kept), 0 is the rest."""

CANDIDATE_END_SEGMENT = -2
"""Marks the end token after the candidate, which belongs to it but to no title."""

MOST_UNREAD = 0.3
"""Share of letters that a base may not read; of German and French it is a tenth, of other alphabets most."""

_LOOKED_AT, _FEWEST = 1_000, 10
_log = logging.getLogger(__name__)

_SHORTEST = 8
"""Fewest tokens that a model's longest text may have."""


@dataclass
class CutReport:
    """How much text did not fit; counts since the encoder was made or :meth:`reset`.

    Attributes:
        prompts: texts from which something was cut.
        items: whole history items left out, always the oldest.
        titles: single titles cut at their end, because alone they outgrew the model.
        shortened: texts cut at their end so that more of a history, or a history beside its candidate, has room.
    """

    prompts: int = 0
    items: int = 0
    titles: int = 0
    shortened: int = 0

    def reset(self) -> None:
        """Start counting from zero."""
        self.prompts = self.items = self.titles = self.shortened = 0


@dataclass
class PromptTokenizer:
    """Builds token ids from lists of titles.

    Each text is framed by the tokenizer's own start and end tokens, if it has any. A prompt (``lead``) is put before
    the first title and tokenized together with it, as sentence-transformers does.

    Args:
        tokenizer: a Hugging Face tokenizer.
        max_tokens: longest text, special tokens and prompt included.
        least: where a history does not fit, its longest texts are shortened first, down to so many tokens each, and a
            candidate takes no more than half the room; then the oldest items are left out. None leaves those out first.

    Raises:
        ModelError: ``max_tokens`` is below 8.
    """

    tokenizer: Any
    max_tokens: int
    cut: CutReport = field(default_factory=CutReport)
    least: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < _SHORTEST:
            raise ModelError(f"max_tokens is {self.max_tokens}: give at least {_SHORTEST}")
        padding = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        self._pad = next(token for token in padding if token is not None)  # masks leave it out, whatever it is
        self._separator = self._pieces([TITLE_SEPARATOR])[0]
        self._start, self._end = _around(self.tokenizer, self._separator)
        self._middle = self._end or self._separator

    def length(self, text: str) -> int:
        """Tokens of a text alone."""
        return len(self._pieces([text])[0])

    def encode(self, prompts: Sequence[Sequence[str]], leads: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Encode histories (or single items) without a candidate.

        Args:
            prompts: per text its titles, oldest first, none empty; a text without a title is empty.
            leads: per text its prompt; None has none.

        Returns:
            ``input_ids``, ``attention_mask`` and ``segments``, each (batch, token).
        """
        leads = [""] * len(prompts) if leads is None else leads
        prompts = [titles or [""] * bool(lead) for titles, lead in zip(prompts, leads, strict=True)]
        return self._pad_batch([self._assemble(titles, None) for titles in self._grouped(prompts, leads)])

    def encode_pairs(
        self, histories: Sequence[Sequence[str]], candidates: Sequence[str], lead: str = "", candidate_lead: str = ""
    ) -> dict[str, Tensor]:
        """Encode each history, its titles oldest first, together with its candidate, each behind its prompt, in one
        text; the candidate is never cut before the whole history is."""
        return self._pad_batch(self._pair_rows(histories, candidates, lead, candidate_lead))

    def encode_shared(
        self, histories: Sequence[Sequence[str]], candidates: Sequence[str], lead: str = "", candidate_lead: str = ""
    ) -> dict[str, Tensor]:
        """Encode the same texts with each history once: all tokens in one row, histories first.

        Two pairs share a history where what is left of it after cutting is the same, so a pair's tokens and
        positions are those of :meth:`encode_pairs`, which takes the same arguments, whatever stands beside it.

        Returns:
            ``input_ids``, ``segments``, ``position_ids`` (within the pair's text), ``history`` (number of the
            token's history) and ``candidate`` (number of its pair, -1 for histories), each (1, token).
        """
        number_of: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
        heads: list[_Cells] = []
        tails: list[_Cells] = []
        for pair, (ids, segments) in enumerate(self._pair_rows(histories, candidates, lead, candidate_lead)):
            split = next(place for place, segment in enumerate(segments) if segment < 0)
            key = (tuple(ids[:split]), tuple(segments[:split]))
            number = number_of.setdefault(key, len(number_of))
            if number == len(heads):
                heads.append(_Cells(ids[:split], segments[:split], range(split), number, -1))
            tails.append(_Cells(ids[split:], segments[split:], range(split, len(ids)), number, pair))
        return _in_one_row([*heads, *tails])

    def _pair_rows(
        self, histories: Sequence[Sequence[str]], candidates: Sequence[str], lead: str, candidate_lead: str
    ) -> list[tuple[list[int], list[int]]]:
        groups = self._grouped(histories, [lead] * len(histories))
        tails = self._grouped([[title] for title in candidates], [candidate_lead] * len(candidates))
        return [self._assemble(titles, candidate) for titles, (candidate,) in zip(groups, tails, strict=True)]

    def _grouped(self, prompts: Sequence[Sequence[str]], leads: Sequence[str]) -> list[list[_Title]]:
        """Tokenize the titles of each text, alone and behind its prompt."""
        named = [(lead, title) for group, lead in zip(prompts, leads, strict=True) for title in group]
        alone = self._pieces([title for _, title in named])
        led = self._pieces([lead + title for lead, title in named]) if any(leads) else alone
        flat = [_Title(a, b, max(0, len(b) - len(a))) for a, b in zip(alone, led, strict=True)]
        groups, start = [], 0
        for titles in prompts:
            groups.append(flat[start : start + len(titles)])
            start += len(titles)
        return groups

    def _pieces(self, titles: Sequence[str]) -> list[list[int]]:
        """Tokenize titles, each different one once."""
        if not titles:
            return []
        different = list(dict.fromkeys(titles))
        encoded = self.tokenizer(different, add_special_tokens=False, verbose=False)
        ids_of = dict(zip(different, encoded["input_ids"], strict=True))
        return [ids_of[title] for title in titles]

    def _assemble(self, titles: list[_Title], candidate: _Title | None) -> tuple[list[int], list[int]]:
        after = self._end if candidate is None else self._middle
        room = self.max_tokens - len(self._start) - len(after)
        tail: list[int] = []
        shortened = self.cut.shortened
        if candidate is not None:
            fits = room - len(self._end)
            beside = fits if self.least is None else max(fits // 2, fits - self._tokens(titles))
            tail = candidate.led[:beside] or [self._pad]
            self.cut.titles += len(candidate.led) > fits
            self.cut.shortened += beside < len(candidate.led) <= fits
            room -= len(tail) + len(self._end)
        kept, left_out = self._fit(self._shortened(titles, room), room)
        self.cut.items += left_out
        self.cut.shortened += sum(len(k.alone) < len(t.alone) for k, t in zip(kept, titles[left_out:], strict=True))
        lone = len(kept) == 1 and len(kept[0].led) < len(titles[left_out].led)
        self.cut.prompts += left_out > 0 or self.cut.shortened > shortened or lone
        ids, segments = [*self._start], [0] * len(self._start)
        for number, title in enumerate(kept, start=1):
            if number == 1:
                ids += title.led
                segments += [0] * title.lead + [number] * (len(title.led) - title.lead)
            else:
                ids += [*self._separator, *title.alone]
                segments += [0] * len(self._separator) + [number] * len(title.alone)
        ids += after
        segments += [0] * len(after)
        if candidate is not None:
            lead = min(candidate.lead, len(tail))
            ids += [*tail, *self._end]
            segments += [CANDIDATE_END_SEGMENT] * lead + [CANDIDATE_SEGMENT] * (len(tail) - lead)
            segments += [CANDIDATE_END_SEGMENT] * len(self._end)
        return (ids, segments) if ids else ([self._pad], [0])

    def _tokens(self, titles: Sequence[_Title]) -> int:
        """Tokens of a history, with its prompt and what separates its items."""
        between = len(self._separator) * max(0, len(titles) - 1)
        return sum(len(title.alone) for title in titles) + between + (titles[0].lead if titles else 0)

    def _shortened(self, titles: list[_Title], room: int) -> list[_Title]:
        """Cut the longest texts of a history of several at their end, alike, so that all of it fits."""
        if self.least is None or len(titles) < 2 or self._tokens(titles) <= room:
            return titles
        left = room - titles[0].lead - len(self._separator) * (len(titles) - 1)
        most = self.least
        for place, size in enumerate(sorted(len(title.alone) for title in titles)):
            share = left // (len(titles) - place)
            if size > share:
                most = max(most, share)
                break
            left -= size
        return [title._replace(alone=title.alone[:most], led=title.led[: title.lead + most]) for title in titles]

    def _fit(self, titles: list[_Title], room: int) -> tuple[list[_Title], int]:
        """Keep as many of the newest titles as fit behind the prompt; a lone one that does not is cut at its end."""
        kept: list[_Title] = []
        used = 0
        for title in reversed(titles):
            if used + len(title.led) > room:
                break
            kept.append(title)
            used += len(title.alone) + len(self._separator)
        if not kept and titles and room > 0:
            kept = [titles[-1]._replace(led=titles[-1].led[:room], lead=min(titles[-1].lead, room))]
            self.cut.titles += 1
        return kept[::-1], len(titles) - len(kept)

    def _pad_batch(self, rows: list[tuple[list[int], list[int]]]) -> dict[str, Tensor]:
        longest = max((len(ids) for ids, _ in rows), default=0)
        ids = torch.full((len(rows), longest), self._pad, dtype=torch.long)
        segments = torch.zeros((len(rows), longest), dtype=torch.long)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for row, (row_ids, row_segments) in enumerate(rows):
            ids[row, : len(row_ids)] = torch.tensor(row_ids)
            segments[row, : len(row_ids)] = torch.tensor(row_segments)
            mask[row, : len(row_ids)] = 1
        return {"input_ids": ids, "attention_mask": mask, "segments": segments}


class _Title(NamedTuple):
    """A title's tokens, by itself and behind the prompt, and how many of the latter are the prompt's."""

    alone: list[int]
    led: list[int]
    lead: int


def _around(tokenizer: Any, between: list[int]) -> tuple[list[int], list[int]]:
    """The tokens that a tokenizer puts before and behind a text by itself."""
    framed = tokenizer([TITLE_SEPARATOR], verbose=False)["input_ids"][0]
    places = [start for start in range(len(framed)) if framed[start : start + len(between)] == between]
    if not between or not places:
        raise ModelError(
            f"tokenizer {type(tokenizer).__name__} reads {TITLE_SEPARATOR!r} as {framed}, alone as {between}: "
            "its start and end tokens cannot be identified; use another base"
        )
    return framed[: places[0]], framed[places[0] + len(between) :]


class _Cells(NamedTuple):
    """Consecutive tokens of one history, or of one candidate."""

    ids: list[int]
    segments: list[int]
    positions: range
    history: int
    candidate: int


def _in_one_row(cells: Sequence[_Cells]) -> dict[str, Tensor]:
    sizes = torch.tensor([len(cell.ids) for cell in cells])
    columns = {
        "input_ids": torch.tensor([token for cell in cells for token in cell.ids]),
        "segments": torch.tensor([segment for cell in cells for segment in cell.segments]),
        "position_ids": torch.tensor([position for cell in cells for position in cell.positions]),
        "history": torch.tensor([cell.history for cell in cells]).repeat_interleave(sizes),
        "candidate": torch.tensor([cell.candidate for cell in cells]).repeat_interleave(sizes),
    }
    return {name: column[None] for name, column in columns.items()}


def token_limit(tokenizer: Any, config: Any, wanted: int | None, *, usual: int | None = None) -> int:
    """Settle the longest text in tokens.

    Args:
        tokenizer: its ``model_max_length`` bounds the result.
        config: so do its ``max_position_embeddings``; MPNet and RoBERTa lose the positions up to the padding id.
        wanted: the user's wish; None takes the bound, at most 256 and at most ``usual``.
        usual: what the base's folder says.

    Raises:
        ModelError: the wish is above what the model can take, or below 8.
    """
    positions = max(getattr(config, "max_position_embeddings", None) or 0, 0) or 512  # XLNet says -1
    if config.model_type in {"mpnet", "roberta", "xlm-roberta", "camembert"}:
        positions -= config.pad_token_id + 1
    bound = min(positions, tokenizer.model_max_length)
    if wanted is None:
        return int(min(bound, 256, usual or 256))
    if not isinstance(wanted, int) or wanted < _SHORTEST:
        raise ModelError(f"max_tokens is {wanted!r}: give at least {_SHORTEST}")
    if wanted > bound:
        raise ModelError(f"max_tokens is {wanted}, but the model takes at most {bound}: lower it")
    return wanted


def unread(tokenizer: Any, texts: Sequence[str]) -> float:
    """Measure how badly a tokenizer reads some texts, on a sample of at most a thousand.

    Returns:
        share of the letters that it does not know, splits into bytes, or reads one by one within a word (Chinese
        characters excepted); 0 for a tokenizer without offsets.
    """
    some = list(texts[:: -(-len(texts) // _LOOKED_AT) or 1])
    if not getattr(tokenizer, "is_fast", False) or not some:
        return 0.0
    found = tokenizer(some, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    lost, letters = 0.0, sum(char.isalpha() for text in some for char in text)
    for text, ids, places in zip(some, found["input_ids"], found["offset_mapping"], strict=True):
        times = Counter(places)
        for token, (start, end) in zip(ids, places, strict=True):
            among = [
                char for char in (text[start - 1 : start], text[end : end + 1]) if char and category(char)[0] in "LM"
            ]
            alone = end - start == 1 and among and not is_han(text[start])
            if token == tokenizer.unk_token_id or times[start, end] > 1 or alone:
                lost += sum(map(str.isalpha, text[start:end])) / times[start, end]
    return lost / max(1, letters)


def tell_unread(base: str, tokenizer: Any, texts: Sequence[str]) -> str:
    """Warn, once a base, that it cannot read these texts; returns the warning, empty if it can."""
    share = unread(tokenizer, texts)
    return _told(base, f"{share:.0%}") if share > MOST_UNREAD and len(texts) >= _FEWEST else ""


@cache
def _told(base: str, share: str) -> str:
    sentence = (
        f"the base {base} hardly reads these texts: {share} of their letters are unknown to it or read one by one, not "
        "as words; take one that was trained on their language, or a multilingual one (--base), such as "
        "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
    )
    _log.warning("%s", sentence)
    return sentence
