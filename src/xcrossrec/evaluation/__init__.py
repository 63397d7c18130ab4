"""Measure any scorer under the named protocol, keep per-user results, compare two of them."""

from xcrossrec.evaluation.comparison import compare
from xcrossrec.evaluation.protocol import evaluate
from xcrossrec.evaluation.result import Evaluation, EvaluationInfo
from xcrossrec.evaluation.table import comparison_table, summary_table, verdict

__all__ = ["Evaluation", "EvaluationInfo", "compare", "comparison_table", "evaluate", "summary_table", "verdict"]
