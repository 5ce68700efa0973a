"""The eight benchmarks: which lm-eval definitions, which local files, which metric. Data only.

Prompts, worked examples, stop strings and answer extraction are lm-eval's. The chat template is applied where the item
is an instruction to an assistant (ifeval); the others are completion prompts, most with worked examples in plain
text, scored the same way for base and tuned models. MMLU has its customary five worked examples, one count more
than lm-eval sets by itself.
"""

from dataclasses import dataclass

from spice_select.evaluation.tasks import converters
from spice_select.evaluation.tasks.local import Convert


@dataclass(frozen=True, slots=True)
class Score:
    """A metric of lm-eval's, read from its per-item results.

    Attributes:
        label: how reports name it.
        metric: the key lm-eval gives it.
        filter: the answer extraction it belongs to.
        definition: the lm-eval task it comes from, where a benchmark has several of the same items.

    """

    label: str
    metric: str
    filter: str = "none"
    definition: str | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark.

    Attributes:
        about: one line for help texts.
        definitions: glob under lm-eval's `tasks` folder.
        files: accepted file names without suffix, in order.
        convert: a file's row to lm-eval's fields.
        scores: the reported metric first.
        part: the converted field that names the subtask (lm-eval's `dataset_name`).
        shot_files: where worked examples are read from; without such a file the local benchmark is zero-shot.
        shots: how many, where that is not lm-eval's own setting.
        chat: applies the chat template.
        executes: scores by running generated programs.

    """

    about: str
    definitions: str
    files: tuple[str, ...]
    convert: Convert
    scores: tuple[Score, ...]
    part: str | None = None
    shot_files: tuple[str, ...] = ()
    shots: int | None = None
    chat: bool = False
    executes: bool = False


BENCHMARKS: dict[str, Benchmark] = {
    "gsm8k": Benchmark(
        "grade-school mathematics, 5-shot generation, exact match of the last number",
        "gsm8k/gsm8k.yaml",
        ("gsm8k_test", "gsm8k"),
        converters.gsm8k,
        (
            Score("exact_match (flexible-extract)", "exact_match", "flexible-extract"),
            Score("exact_match (strict-match)", "exact_match", "strict-match"),
        ),
        shot_files=("gsm8k_train",),
    ),
    "bbh": Benchmark(
        "BIG-Bench Hard, 27 subtasks, 3-shot chain of thought, exact match",
        "bbh/cot_fewshot/[a-z]*.yaml",
        ("bbh", "bbh_test"),
        converters.bbh,
        (Score("exact_match", "exact_match", "get-answer"),),
        part="task",
    ),
    "mmlu": Benchmark(
        "57 subjects of knowledge, 5-shot multiple choice, accuracy over all items",
        "mmlu/default/mmlu_*.yaml",
        ("mmlu_test", "mmlu"),
        converters.mmlu,
        (Score("acc", "acc"),),
        part="subject",
        shot_files=("mmlu_dev",),
        shots=5,
    ),
    "arc_challenge": Benchmark(
        "science questions, zero-shot multiple choice, length-normalised accuracy",
        "arc/arc_challenge.yaml",
        ("arc_challenge", "arc_challenge_test", "ARC-Challenge-Test"),
        converters.arc,
        (Score("acc_norm", "acc_norm"), Score("acc", "acc")),
    ),
    "truthfulqa": Benchmark(
        "questions that invite common falsehoods, probability mass of the true answers (mc2)",
        "truthfulqa/truthfulqa_mc[12].yaml",
        ("truthfulqa", "TruthfulQA"),
        converters.truthfulqa,
        (
            Score("mc2", "acc", definition="truthfulqa_mc2"),
            Score("mc1", "acc", definition="truthfulqa_mc1"),
        ),
    ),
    "ifeval": Benchmark(
        "verifiable instructions, chat template, share of prompts whose every instruction is followed",
        "ifeval/ifeval.yaml",
        ("ifeval", "input_data"),
        converters.ifeval,
        (
            Score("prompt_level_strict_acc", "prompt_level_strict_acc"),
            Score("prompt_level_loose_acc", "prompt_level_loose_acc"),
        ),
        chat=True,
    ),
    "humaneval": Benchmark(
        "Python functions from docstrings, pass@1 (runs generated code)",
        "humaneval/humaneval.yaml",
        ("humaneval", "HumanEval"),
        converters.humaneval,
        (Score("pass@1", "pass_at_1"),),
        executes=True,
    ),
    "mbpp": Benchmark(
        "basic Python programs from descriptions, 3-shot, pass@1 (runs generated code)",
        "mbpp/mbpp.yaml",
        ("mbpp_test", "mbpp"),
        converters.mbpp,
        (Score("pass@1", "pass_at_1"),),
        executes=True,
    ),
}
