"""humaneval and mbpp: lm-eval's prompts, scored by the sandbox instead of a metric that runs in this process.

lm-eval's own helper modules of these tasks download a metric when imported, so they are read, not imported.
"""

import ast
from pathlib import Path
from typing import Any

from spice_select.evaluation.tasks.sandbox import passes

_FIELDS = ("process_results", "metric_list", "filter_list", "fewshot_config")


def with_sandbox(definition: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The definition with pass@1 from the sandbox, and its worked examples as plain data.

    Args:
        definition: lm-eval's YAML with unresolved functions.
        folder: where it lies, with its `utils.py`.

    """
    result = {key: value for key, value in definition.items() if key not in _FIELDS}
    result["metric_list"] = [{"metric": "pass_at_1", "aggregation": "mean", "higher_is_better": True}]
    result["process_results"] = humaneval_score if definition["task"] == "humaneval" else mbpp_score
    shots = definition.get("fewshot_config")
    if shots is not None:
        name = str(shots["samples"]).rpartition(".")[2]
        result["fewshot_config"] = {**shots, "samples": returned_literal(folder / "utils.py", name)}
    return result


def humaneval_score(doc: dict[str, Any], answers: list[str]) -> dict[str, float]:
    """Whether prompt and completion pass `check(entry_point)`."""
    return _passed(f"{doc['prompt']}{answers[0]}\n{doc['test']}\ncheck({doc['entry_point']})")


def mbpp_score(doc: dict[str, Any], answers: list[str]) -> dict[str, float]:
    """Whether the completion passes the three tests that the prompt shows."""
    return _passed("\n".join([answers[0], *doc["test_list"][:3]]))


def returned_literal(path: Path, function: str) -> Any:
    """The literal that a function of a source file returns, without running it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    value = next(node.value for node in body if isinstance(node, ast.Return) and node.value is not None)
    return ast.literal_eval(value)


def _passed(program: str) -> dict[str, float]:
    return {"pass_at_1": float(passes(program))}
