"""The eight benchmarks: which lm-eval tasks, which local files, which metric. Data only.

Prompts, worked examples, stop strings, answer extraction and metrics are lm-eval's. The chat template is applied where
the item is an instruction to an assistant (ifeval); the others are completion prompts, most with worked examples in
plain text, scored the same way for base and tuned models. MMLU has its customary five worked examples, one count more
than lm-eval sets by itself.
"""

from dataclasses import dataclass
from typing import NamedTuple


class Score(NamedTuple):
    """A metric of lm-eval's: its key there, the answer extraction, and the task where several score the same items."""

    label: str
    metric: str
    filter: str = "none"
    task: str | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark."""

    about: str  # one line for help texts
    tasks: tuple[str, ...]  # lm-eval's tasks or group
    files: tuple[str, ...]  # names of local files without suffix; the first that exists is read
    scores: tuple[Score, ...]  # the reported metric first
    subtask_field: str | None = None  # the field of a local row that names its subtask
    shot_file: str = ""  # local file of worked examples; without it the local benchmark is zero-shot
    shots: int | None = None  # worked examples, where their number is not lm-eval's own
    chat: bool = False  # applies the chat template
    executes: bool = False  # scores by running generated programs
    download: str = ""  # the command that fetches once what scores it and comes with no package


CODE_METRIC = "python -c \"import evaluate; evaluate.load('code_eval')\""
BENCHMARKS: dict[str, Benchmark] = {
    "gsm8k": Benchmark(
        "grade-school mathematics, 5-shot generation, exact match of the last number",
        ("gsm8k",),
        ("gsm8k_test", "gsm8k"),
        tuple(Score(f"exact_match ({name})", "exact_match", name) for name in ("flexible-extract", "strict-match")),
        shot_file="gsm8k_train",
    ),
    "bbh": Benchmark(
        "BIG-Bench Hard, 27 subtasks, 3-shot chain of thought, exact match",
        ("bbh_cot_fewshot",),
        ("bbh", "bbh_test"),
        (Score("exact_match", "exact_match", "get-answer"),),
        subtask_field="task",
    ),
    "mmlu": Benchmark(
        "57 subjects of knowledge, 5-shot multiple choice, accuracy over all items",
        ("mmlu",),
        ("mmlu_test", "mmlu"),
        (Score("acc", "acc"),),
        subtask_field="subject",
        shot_file="mmlu_dev",
        shots=5,
    ),
    "arc_challenge": Benchmark(
        "science questions, zero-shot multiple choice, length-normalised accuracy",
        ("arc_challenge",),
        ("arc_challenge", "arc_challenge_test", "ARC-Challenge-Test"),
        (Score("acc_norm", "acc_norm"), Score("acc", "acc")),
    ),
    "truthfulqa": Benchmark(
        "questions that invite common falsehoods, probability mass of the true answers (mc2)",
        ("truthfulqa_mc1", "truthfulqa_mc2"),
        ("truthfulqa", "TruthfulQA"),
        (Score("mc2", "acc", task="truthfulqa_mc2"), Score("mc1", "acc", task="truthfulqa_mc1")),
    ),
    "ifeval": Benchmark(
        "verifiable instructions, chat template, share of prompts whose every instruction is followed",
        ("ifeval",),
        ("ifeval", "input_data"),
        tuple(Score(name, name) for name in ("prompt_level_strict_acc", "prompt_level_loose_acc")),
        chat=True,
        download="python -m nltk.downloader punkt_tab",
    ),
    "humaneval": Benchmark(
        "Python functions from docstrings, pass@1 (runs generated code)",
        ("humaneval",),
        ("humaneval", "HumanEval"),
        (Score("pass@1", "pass@1", "create_test"),),
        executes=True,
        download=CODE_METRIC,
    ),
    "mbpp": Benchmark(
        "basic Python programs from descriptions, 3-shot, pass@1 (runs generated code)",
        ("mbpp",),
        ("mbpp_test", "mbpp"),
        (Score("pass@1", "pass_at_1"),),
        executes=True,
        download=CODE_METRIC,
    ),
}
