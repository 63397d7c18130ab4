"""Names shared by all layers: columns, splits, choices of settings; and the test for a database's URL."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

USER = "user_id"
ITEM = "item_id"
TITLE = "title"
POSITION = "position"
TIMESTAMP = "timestamp"

Split: TypeAlias = Literal["train", "validation", "test"]
SplitWay: TypeAlias = Literal["leave-last-out", "by-user", "temporal", "none"]
Repeats: TypeAlias = Literal["drop", "keep", "first"]
UnknownItems: TypeAlias = Literal["error", "drop"]
Incomplete: TypeAlias = Literal["error", "drop"]
Negatives: TypeAlias = Literal["uniform", "popularity", "full"]
Scoring: TypeAlias = Literal["dual", "pair"]
Form: TypeAlias = Literal["merged", "xcross"]
PairAttention: TypeAlias = Literal["joint", "shared"]
PairReading: TypeAlias = Literal["first", "candidate"]
PairStart: TypeAlias = Literal["similarity", "fresh"]
PoolingMode: TypeAlias = Literal["mean", "cls", "lasttoken", "max", "weightedmean", "mean_sqrt_len_tokens"]
EncodingPrecision: TypeAlias = Literal["fp32", "bf16"]

SPLITS: tuple[Split, ...] = get_args(Split)
NEGATIVES: tuple[Negatives, ...] = get_args(Negatives)
FORMS: tuple[Form, ...] = get_args(Form)
PAIR_ATTENTIONS: tuple[PairAttention, ...] = get_args(PairAttention)
PAIR_STARTS: tuple[PairStart, ...] = get_args(PairStart)
POOLING_MODES: tuple[PoolingMode, ...] = get_args(PoolingMode)
ENCODING_PRECISIONS: tuple[EncodingPrecision, ...] = get_args(EncodingPrecision)


def is_url(place: object) -> bool:
    """Whether a place is a database's URL and not a path."""
    return isinstance(place, str) and place.startswith(("postgresql://", "postgres://"))
