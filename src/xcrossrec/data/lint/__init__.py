"""Find defects in recommendation data, and say how many, where, and what to do about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

from xcrossrec.arguments import checked
from xcrossrec.data.domain import Domain
from xcrossrec.data.lint.checks import DOMAIN_CHECKS
from xcrossrec.data.lint.fields import check_fields, check_leaks, check_text_length
from xcrossrec.data.lint.report import Finding, Report, finding
from xcrossrec.data.lint.tables import Tables, load_tables
from xcrossrec.progress import stage
from xcrossrec.types import ITEM, USER

__all__ = ["Finding", "Report", "lint"]


_FIELDS = (check_fields, check_leaks, check_text_length)


@checked
def lint(domains: Domain | Path | str | Sequence[Domain | Path | str]) -> Report:
    """Check one or several domains, individually and against each other.

    Folders are read without `read_domain`'s checks, so that broken data can be checked too.

    Args:
        domains: domains in memory, or folders with ``items`` and ``train`` (perhaps ``validation`` and ``test``) as
            ``.parquet``, ``.csv`` or ``.csv.gz``.

    Raises:
        DataError: a folder that does not exist or has no such files, or files that cannot be read.
    """
    several = domains if isinstance(domains, Sequence) and not isinstance(domains, str | bytes) else [domains]
    tables = [load_tables(domain) for domain in several]
    findings: list[Finding] = []
    with stage("checking", "checks") as bar:
        every = [(table, check) for table in tables for check in (*DOMAIN_CHECKS, *_FIELDS)]
        for number, (table, check) in enumerate(every):
            findings += check(table)
            bar.at(number + 1, len(every), table.name)
    findings += [found for first, second in combinations(tables, 2) for found in _overlaps(first, second)]
    return Report(tuple(table.name for table in tables), tuple(findings))


def _overlaps(first: Tables, second: Tables) -> Iterator[Finding]:
    """Find users and items that two domains have in common."""
    pair = f"{first.name} + {second.name}"
    users = sorted(first.ids(USER) & second.ids(USER))
    yield from finding(
        "shared_users_across_domains", pair, None, users,
        "users occur in both domains: report results with and without users seen in a source's training set",
    )  # fmt: skip
    items = sorted(first.ids(ITEM) & second.ids(ITEM))
    yield from finding(
        "shared_items_across_domains", pair, None, items,
        "items occur in both domains: a source then knows items of the target; remove them from one side",
    )  # fmt: skip
