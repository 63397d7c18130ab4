"""The linter's findings and report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from xcrossrec.types import Split

Severity: TypeAlias = Literal["error", "warning"]

EXAMPLES = 5
ERRORS = frozenset(
    {
        "bad_position", "changed_content", "duplicate_item", "empty_domain", "equal_splits", "id_mismatch",
        "leaking_field", "missing_column", "null_id", "shared_users", "target_in_history", "unknown_item",
        "unordered_positions", "unordered_rows", "unordered_timestamps",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One kind of defect in one place.

    Attributes:
        code: a machine-readable name of the kind.
        severity: ``error`` for what makes results wrong, ``warning`` for what should be known.
        domain: its name, or two names joined by `` + ``.
        split: None for the catalogue or several splits.
        count: number of items, users or rows (the message says which).
        examples: at most five of them.
        message: what was found, with figures, and what to do.
    """

    code: str
    severity: Severity
    domain: str
    split: Split | None
    count: int
    examples: tuple[str, ...]
    message: str

    def to_text(self) -> str:
        """Write the finding on one line."""
        place = self.domain + (f"/{self.split}" if self.split else "")
        shown = f" (e.g. {', '.join(self.examples)})" if self.examples else ""
        return f"{self.severity:<7}  {place}  {self.code}: {self.message}{shown}"


@dataclass(frozen=True)
class Report:
    """All that the linter found."""

    domains: tuple[str, ...]
    findings: tuple[Finding, ...]

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """Get the findings of one severity."""
        return tuple(found for found in self.findings if found.severity == severity)

    @property
    def exit_code(self) -> int:
        """1 where there is an error, otherwise 0."""
        return int(bool(self.of("error")))

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return {
            "domains": list(self.domains),
            "errors": len(self.of("error")),
            "warnings": len(self.of("warning")),
            "findings": [{**asdict(found), "examples": list(found.examples)} for found in self.findings],
        }

    def to_text(self) -> str:
        """The report as text: one line for each finding, errors first, then the totals."""
        lines = [found.to_text() for found in (*self.of("error"), *self.of("warning"))]
        sums = f"{len(self.of('error'))} errors, {len(self.of('warning'))} warnings"
        return "\n".join([*lines, f"{sums} in {', '.join(self.domains) or 'no domain'}"])


def finding(
    code: str,
    domain: str,
    split: Split | None,
    examples: Sequence[object],
    message: str,
    *,
    count: int | None = None,
    eased: bool = False,
) -> Iterator[Finding]:
    """Yield a finding, or nothing if the count is 0.

    The count precedes the message, so that both form a sentence; it is the number of examples unless given. The
    severity is that of the code, or a warning if ``eased``.
    """
    number = len(examples) if count is None else count
    if number:
        severity: Severity = "error" if code in ERRORS and not eased else "warning"
        shown = tuple(str(example) for example in examples[:EXAMPLES])
        yield Finding(code, severity, domain, split, number, shown, f"{number:,} {message}")
