"""A stand-in for the metric code_eval of `evaluate`, whose code lies on the hub: programs run one after another."""

from pathlib import Path

SOURCE = """
import os
import subprocess
import sys

import datasets
import evaluate


class CodeEval(evaluate.Metric):
    def _info(self):
        features = {"predictions": datasets.Sequence(datasets.Value("string")), "references": datasets.Value("string")}
        return evaluate.MetricInfo(description="", citation="", features=datasets.Features(features))

    def _compute(self, predictions, references, k):
        assert os.environ["HF_ALLOW_CODE_EVAL"] == "1"
        passed = []
        for candidates, test in zip(predictions, references):
            run = subprocess.run([sys.executable, "-c", candidates[0] + "\\n" + test], stderr=subprocess.DEVNULL)
            passed.append(run.returncode == 0)
        return {"pass@1": sum(passed) / len(passed)}, {}
"""


def write_code_metric(folder: Path) -> None:
    """Put it where `evaluate.load("code_eval")` finds it when `folder` is the working directory."""
    (folder / "code_eval").mkdir()
    (folder / "code_eval" / "code_eval.py").write_text(SOURCE)
