"""Measure any scorer under the named protocol, keep per-user results, compare two of them."""

from xcrossrec.evaluation.comparison import compare
from xcrossrec.evaluation.protocol import evaluate, without_field
from xcrossrec.evaluation.result import Evaluation, EvaluationInfo
from xcrossrec.evaluation.table import comparison_table, headline, summary_table, verdict

__all__ = [
    "Evaluation",
    "EvaluationInfo",
    "compare",
    "comparison_table",
    "evaluate",
    "headline",
    "summary_table",
    "verdict",
    "without_field",
]
