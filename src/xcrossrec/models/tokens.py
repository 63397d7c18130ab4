"""From titles to padded token ids: where the oldest history is cut, never the candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xcrossrec.exceptions import ModelError
from xcrossrec.prompts import TITLE_SEPARATOR

CANDIDATE_SEGMENT = -1
"""Marks the candidate's tokens in ``segments``; history items count from 1 (oldest kept), 0 is the rest."""

CANDIDATE_END_SEGMENT = -2
"""Marks the end token after the candidate, which belongs to it but to no title."""

TEXT_COLUMNS = ("input_ids", "attention_mask", "segments")
"""What :meth:`PromptTokenizer.encode_pairs` gives, in this order."""

SHARED_COLUMNS = ("input_ids", "segments", "position_ids", "history", "candidate")
"""What :meth:`PromptTokenizer.encode_shared` gives, in this order."""


@dataclass
class CutReport:
    """How much text did not fit; counts since the encoder was made or :meth:`reset`.

    Attributes:
        prompts: texts from which something was cut.
        items: whole history items left out, always the oldest.
        titles: single titles cut at their end, because alone they outgrew the model.
    """

    prompts: int = 0
    items: int = 0
    titles: int = 0

    def reset(self) -> None:
        """Start counting from zero."""
        self.prompts = self.items = self.titles = 0


@dataclass
class PromptTokenizer:
    """Builds token ids from lists of titles.

    Args:
        tokenizer: a Hugging Face tokenizer with start and end tokens.
        max_tokens: longest text, special tokens included.

    Raises:
        ModelError: the tokenizer has no start, end or padding token, or ``max_tokens`` is below 8.
    """

    tokenizer: Any
    max_tokens: int
    cut: CutReport = field(default_factory=CutReport)

    def __post_init__(self) -> None:
        if self.max_tokens < 8:
            raise ModelError(f"max_tokens is {self.max_tokens}: give at least 8")
        start = self.tokenizer.cls_token_id
        end = self.tokenizer.sep_token_id
        pad = self.tokenizer.pad_token_id
        self._start = self.tokenizer.bos_token_id if start is None else start
        self._end = self.tokenizer.eos_token_id if end is None else end
        self._pad = pad
        if None in (self._start, self._end, self._pad):
            raise ModelError(
                f"tokenizer {type(self.tokenizer).__name__} lacks a start, end or padding token: "
                "use an encoder's tokenizer"
            )
        self._separator = self._pieces([TITLE_SEPARATOR])[0]

    def encode(self, prompts: Sequence[Sequence[str]]) -> dict[str, Tensor]:
        """Encode histories (or single items) without a candidate.

        Args:
            prompts: per text its titles, oldest first, none empty.

        Returns:
            ``input_ids``, ``attention_mask`` and ``segments``, each (batch, token).
        """
        pieces = self._grouped(prompts)
        return self._pad_batch([self._assemble(titles, None) for titles in pieces])

    def encode_pairs(self, histories: Sequence[Sequence[str]], candidates: Sequence[str]) -> dict[str, Tensor]:
        """Encode each history together with its candidate in one text.

        Args:
            histories: per text the history's titles, oldest first.
            candidates: per text the candidate's title; never cut before the whole history is.
        """
        return self._pad_batch(self._pair_rows(histories, candidates))

    def encode_shared(self, histories: Sequence[Sequence[str]], candidates: Sequence[str]) -> dict[str, Tensor]:
        """Encode the same texts with each history once: all tokens in one row, histories first.

        Two pairs share a history where what is left of it after cutting is the same, so a pair's tokens and
        positions are those of :meth:`encode_pairs`, whatever stands beside it.

        Args:
            histories: per pair the history's titles, oldest first.
            candidates: per pair the candidate's title.

        Returns:
            ``input_ids``, ``segments``, ``position_ids`` (within the pair's text), ``history`` (number of the
            token's history) and ``candidate`` (number of its pair, -1 for histories), each (1, token).
        """
        number_of: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
        heads: list[_Cells] = []
        tails: list[_Cells] = []
        for pair, (ids, segments) in enumerate(self._pair_rows(histories, candidates)):
            split = next(place for place, segment in enumerate(segments) if segment < 0)
            key = (tuple(ids[:split]), tuple(segments[:split]))
            number = number_of.setdefault(key, len(number_of))
            if number == len(heads):
                heads.append(_Cells(ids[:split], segments[:split], range(split), number, -1))
            tails.append(_Cells(ids[split:], segments[split:], range(split, len(ids)), number, pair))
        return _in_one_row([*heads, *tails])

    def _pair_rows(
        self, histories: Sequence[Sequence[str]], candidates: Sequence[str]
    ) -> list[tuple[list[int], list[int]]]:
        pieces = self._grouped(histories)
        tails = self._pieces(candidates)
        return [self._assemble(titles, candidate) for titles, candidate in zip(pieces, tails, strict=True)]

    def _grouped(self, prompts: Sequence[Sequence[str]]) -> list[list[list[int]]]:
        flat = self._pieces([title for titles in prompts for title in titles])
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

    def _assemble(self, titles: list[list[int]], candidate: list[int] | None) -> tuple[list[int], list[int]]:
        room = self.max_tokens - 2
        tail: list[int] = []
        if candidate is not None:
            tail = [*candidate[: room - 1], self._end]
            self.cut.titles += len(candidate) > room - 1
            room -= len(tail)
        kept, left_out = self._fit(titles, room)
        self.cut.items += left_out
        self.cut.prompts += left_out > 0 or any(len(k) < len(t) for k, t in zip(kept, titles[left_out:], strict=True))
        ids, segments = [self._start], [0]
        for number, title in enumerate(kept, start=1):
            if number > 1:
                ids += self._separator
                segments += [0] * len(self._separator)
            ids += title
            segments += [number] * len(title)
        ids.append(self._end)
        segments.append(0)
        if candidate is not None:
            ids += tail
            segments += [CANDIDATE_SEGMENT] * (len(tail) - 1) + [CANDIDATE_END_SEGMENT]
        return ids, segments

    def _fit(self, titles: list[list[int]], room: int) -> tuple[list[list[int]], int]:
        """Keep as many of the newest titles as fit; a lone title that does not fit is cut at its end."""
        kept: list[list[int]] = []
        used = 0
        for title in reversed(titles):
            cost = len(title) + (len(self._separator) if kept else 0)
            if used + cost > room:
                break
            kept.append(title)
            used += cost
        if not kept and titles and room > 0:
            kept = [titles[-1][:room]]
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
        return dict(zip(TEXT_COLUMNS, (ids, mask, segments), strict=True))


class _Cells(NamedTuple):
    """Consecutive tokens of one history, or of one candidate."""

    ids: list[int]
    segments: list[int]
    positions: range
    history: int
    candidate: int


def _in_one_row(cells: Sequence[_Cells]) -> dict[str, Tensor]:
    sizes = torch.tensor([len(cell.ids) for cell in cells])
    columns = (
        torch.tensor([token for cell in cells for token in cell.ids]),
        torch.tensor([segment for cell in cells for segment in cell.segments]),
        torch.tensor([position for cell in cells for position in cell.positions]),
        torch.tensor([cell.history for cell in cells]).repeat_interleave(sizes),
        torch.tensor([cell.candidate for cell in cells]).repeat_interleave(sizes),
    )
    return {name: column[None] for name, column in zip(SHARED_COLUMNS, columns, strict=True)}


def token_limit(tokenizer: Any, config: Any, wanted: int | None) -> int:
    """Settle the longest text in tokens.

    Args:
        tokenizer: its ``model_max_length`` bounds the result.
        config: its ``max_position_embeddings`` bounds it too; MPNet and RoBERTa shapes lose the positions
            up to the padding id.
        wanted: the user's wish; None takes the bound, at most 256.

    Raises:
        ModelError: the wish is above what the model can take.
    """
    positions = getattr(config, "max_position_embeddings", None) or 512
    if config.model_type in {"mpnet", "roberta", "xlm-roberta", "camembert"}:
        positions -= config.pad_token_id + 1
    bound = min(positions, tokenizer.model_max_length)
    if wanted is None:
        return int(min(bound, 256))
    if wanted > bound:
        raise ModelError(f"max_tokens is {wanted}, but the model takes at most {bound}: lower it")
    return wanted
