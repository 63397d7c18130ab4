"""Recommendations for a Parquet file of users, a row group a block of the job; a killed run goes on where it was.

Finished row groups lie in a folder beside the output (:mod:`xcrossrec.engine.parts`). When all are there they become
one file, in one step. What an output, or the folder of an unfinished one, was made of stands in it (users, model,
catalogue, settings); another job's is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from xcrossrec._version import __version__
from xcrossrec.data.interactions import check_columns
from xcrossrec.data.store import readable
from xcrossrec.engine import Engine, Local, Parts, Work
from xcrossrec.exceptions import DataError, XCrossRecError
from xcrossrec.models.bundle import read_bundle_manifest
from xcrossrec.models.files import file_digest
from xcrossrec.models.model import encoder_of
from xcrossrec.progress import stage
from xcrossrec.recommender.questions import Answer, Question
from xcrossrec.recommender.recommender import HISTORY, Recommender
from xcrossrec.replacing import replacing_file, state_of
from xcrossrec.types import USER

USERS_AT_ONCE = 512
"""Whose questions are answered together."""

_KEY = b"xcrossrec"
"""Under which an output's Parquet metadata tell the job."""

Job: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class BatchReport:
    """What a run did.

    Attributes:
        row_groups: of the users' file.
        resumed: of these, finished by an earlier run.
        users: in the output.
        errors: users of the output who have an error instead of recommendations.
        nothing: users for whom nothing was left to recommend.
    """

    row_groups: int
    resumed: int
    users: int
    errors: int
    nothing: int = 0


def job_of(recommender: Recommender, model: Path | str, users: Path | str, asked: Question) -> dict[str, Any]:
    """What an output depends on; BundleError where no model is in the folder ``model``.

    Args:
        users: the Parquet file.
        asked: what is asked for each user; its history is not read.
    """
    manifest = read_bundle_manifest(model)
    filters = asked.filters and vars(asked.filters) | {"category": sorted(asked.filters.category or ())}
    text = encoder_of(recommender.model).text
    items = [(*item.values[:-1], item.read(text)) for item in recommender.catalogue.snapshot()]
    return {
        "xcrossrec_version": __version__,
        "users": file_digest(Path(users)),
        "model": _digest({name: manifest.get(name) for name in ("files", "base")}),
        "catalogue": _digest(items),
        "purchases": _digest([recommender.catalogue.purchases().rows(), recommender.catalogue.forgotten]),
        "filters": filters,
        "candidates": None if asked.candidates is None else list(asked.candidates),
        **{name: getattr(asked, name) for name in ("k", "include_bought", "skip_unknown", "diversity")},
    }


def recommend_batch(
    recommender: Recommender,
    users: Path | str,
    out: Path | str,
    *,
    job: Job,
    asked: Question,
    overwrite: bool = False,
    engine: Engine | None = None,
) -> BatchReport:
    """Recommend for every user of a file; what an earlier, interrupted run of this job finished is kept.

    The output has a row for each user, in the file's order: ``user_id`` as it came, ``item_ids`` and ``scores`` (best
    first), ``unknown`` (ids that were left out) and ``error`` (a sentence, or null). One user's error stops nobody
    else's recommendations. Its row groups are those of the users' file.

    Args:
        recommender: with its catalogue; of :meth:`Recommender.from_pretrained`, if the engine is another process's.
        users: Parquet file with ``user_id``, and ``history`` or nothing: what is known of a user by her id, a number
            as its digits, stands before her history.
        out: Parquet file to make.
        job: from :func:`job_of`.
        asked: what is asked for each user; its history is not read.
        overwrite: replace an output, or an unfinished one, of another job.
        engine: where row groups are worked on; None is this process, one after another. A cluster's machines read
            users and model at the same paths.

    Raises:
        DataError: no such file, a column missing or of another type, an output of another job, or another process
            at work on this one.
    """
    users, out, engine = Path(users).absolute(), Path(out), engine or Local()
    source = open_users(users)
    recommender.check(asked)
    groups = source.metadata.num_row_groups
    found = _made_of(out)
    done = found == job
    if out.exists() and not done and not (overwrite and found):
        remedy = "give --overwrite" if found else "remove it"
        raise DataError(f"{out} exists and is not this job's: choose another --out, or {remedy}")
    with Parts.claimed(out, job, overwrite=overwrite) as parts:
        if done:
            return _report(out, groups, groups)
        with stage("recommending", "users") as bar:
            total, blocks = source.metadata.num_rows, {f"{group:06d}": group for group in range(groups)}
            if engine.here:
                here = partial(_answering, lambda: recommender, users, asked, lambda users: bar.at(users, total))
                resumed = parts.complete(engine, here, blocks)
            else:
                there = partial(_answering, recommender.elsewhere(), users, asked)
                resumed = parts.complete(engine, there, blocks, lambda done, of: bar.at(total * done // of, total))
        _join(parts, out, job, groups, source.schema_arrow.field(USER).type)
        return _report(out, groups, resumed)


def open_users(path: Path | str) -> pq.ParquetFile:
    """Open a file of users and check its columns; nothing is read yet. DataError: no such file, no Parquet, a column
    missing or of another type."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"the users' file {path} {state_of(path)}: give a Parquet file with {USER} and {HISTORY}")
    with readable(path, "write the users as Parquet", pa.ArrowException):
        source = pq.ParquetFile(path)
    schema = source.schema_arrow
    check_columns(f"the users' file {path}", schema.names, (USER,))
    if pa.types.is_nested(user := schema.field(USER).type) or user in (pa.binary(), pa.large_binary()):
        raise DataError(f"the column {USER} of {path} is of type {user}: write ids as text or as whole numbers")
    kind = schema.field(HISTORY).type if HISTORY in schema.names else pa.list_(pa.string())
    if kind not in [of(text) for of in (pa.list_, pa.large_list) for text in (pa.string(), pa.large_string())]:
        raise DataError(f"the column {HISTORY} of {path} is of type {kind}: write a list of text, ids and titles")
    return source


# ---- one row group


def _answering(
    open_again: Callable[[], Recommender],
    users: Path,
    asked: Question,
    told: Callable[[int], None] = lambda users: None,
) -> Work:
    """Load what is needed to recommend for any row group of a file."""
    recommender, source = open_again(), open_users(users)

    def work(group: int) -> bytes:
        before = sum(source.metadata.row_group(earlier).num_rows for earlier in range(group))
        with readable(users, "write it again", pa.ArrowException):
            table = source.read_row_group(group, columns=[USER, HISTORY])  # those that are there
        found = pa.BufferOutputStream()
        recommended = _recommend_group(recommender, table, asked, lambda done: told(before + done))
        pq.write_table(recommended, found, compression="zstd")
        return bytes(found.getvalue())

    return work


def _recommend_group(
    recommender: Recommender, table: pa.Table, asked: Question, told: Callable[[int], None]
) -> pa.Table:
    """Recommend for the users of one row group, and tell how many of them are done."""
    recommender.memory.clear()  # a vector's last bits hang on what it is read with: be that its own group
    given = table[HISTORY].to_pylist() if HISTORY in table.column_names else [None] * len(table)
    questions = [
        replace(asked, history=[each for each in history or () if each is not None], user_id=user)
        for history, user in zip(given, table[USER].cast(pa.string()).to_pylist(), strict=True)
    ]
    answers: list[Answer | Exception] = []
    for start in range(0, len(questions), USERS_AT_ONCE):
        answers += recommender.answer(questions[start : start + USERS_AT_ONCE])
        told(len(answers))
    columns = {USER: table[USER], **_columns(answers)}
    return pa.table(columns, schema=_schema(table.schema.field(USER).type))


def _columns(answers: Sequence[Answer | Exception]) -> dict[str, list[Any]]:
    """Write one row an answer; a user's error is a sentence, any other stops the job."""
    columns: dict[str, list[Any]] = {"item_ids": [], "scores": [], "unknown": [], "error": []}
    for answer in answers:
        if not isinstance(answer, (Answer, XCrossRecError)):
            raise answer
        found = answer.found if isinstance(answer, Answer) else ()
        columns["item_ids"].append([known.item_id for known, _ in found])
        columns["scores"].append([score for _, score in found])
        columns["unknown"].append(list(answer.unknown) if isinstance(answer, Answer) else [])
        columns["error"].append(None if isinstance(answer, Answer) else str(answer))
    return columns


def _schema(user_id: pa.DataType) -> pa.Schema:
    text = pa.string()
    lists = [("item_ids", pa.list_(text)), ("scores", pa.list_(pa.float32())), ("unknown", pa.list_(text))]
    return pa.schema([(USER, user_id), *lists, ("error", text)])


# ---- files


def _join(parts: Parts, out: Path, job: Job, groups: int, user_id: pa.DataType) -> None:
    """Make the output of all parts, a row group each."""
    schema = _schema(user_id).with_metadata({_KEY: json.dumps(job)})
    with (
        replacing_file(out) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for group in range(groups):
            part = pq.read_table(pa.BufferReader(parts.read(f"{group:06d}")))
            writer.write_table(part.cast(_schema(user_id)), row_group_size=max(part.num_rows, 1))


def _made_of(out: Path) -> Any:
    """The job that an output tells; None where there is no output, or another program's."""
    try:
        return json.loads((pq.read_schema(out).metadata or {})[_KEY])
    except (pa.ArrowException, OSError, ValueError, KeyError):
        return None


def _report(out: Path, groups: int, resumed: int) -> BatchReport:
    with readable(out, "remove it and run again", pa.ArrowException):
        failed, empty = pl.col("error").is_not_null(), pl.col("item_ids").list.len() == 0
        counts = pl.scan_parquet(out).select(users=pl.len(), errors=failed.sum(), nothing=(empty & ~failed).sum())
        return BatchReport(groups, resumed, *counts.collect(engine="streaming").row(0))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
