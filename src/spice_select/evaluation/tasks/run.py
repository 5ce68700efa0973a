"""Benchmarks through lm-eval: its tasks are prepared and checked without a model, then a loaded model is scored."""

import importlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np

from spice_select.errors import ConfigError
from spice_select.evaluation.tasks.benchmarks import BENCHMARKS, Score
from spice_select.evaluation.tasks.local import DATA_ERRORS, check_items, local_group
from spice_select.gradients.memory import explain_out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FOLDERS = ("arc", "bbh/cot_fewshot", "gsm8k", "humaneval", "ifeval", "mbpp", "mmlu/default", "truthfulqa")
"""Where lm-eval defines the benchmarks; to index all of its tasks takes 15 s."""


@dataclass(frozen=True, slots=True)
class PreparedTask:
    """A benchmark whose packages and data were checked."""

    name: str
    tasks: Mapping[str, Any]  # lm-eval's
    items: Mapping[str, int]  # how many first items of each task are scored


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One benchmark's figure."""

    task: str  # its name in `BENCHMARKS`
    metric: str  # what `value` is, e.g. `acc_norm`
    value: float  # mean of the metric over the items, from 0 to 1
    stderr: float | None  # standard error of `value`, s / sqrt(items); None for a single item
    items: int
    shots: int  # worked examples before each item
    others: Mapping[str, float]  # further metrics over the same items
    note: str  # what a reader of the figure must know


def prepare_tasks(
    names: Sequence[str], data: Path | None, limit: int | None, execute_code: bool, seed: int
) -> list[PreparedTask]:
    """Check and read everything that the benchmarks `names` need besides a model.

    `data` is a folder of local files (names in `benchmarks.py`); None lets lm-eval fetch from the hub. `limit` takes
    the first items of each benchmark, of one with subtasks in turn from each (see `first_items`). `seed` draws worked
    examples (gsm8k) and makes language detection reproducible (ifeval).

    Raises:
        ConfigError: an unknown name; code that may not be executed; a missing file, field or package.
        PoolError: a local file is damaged.

    """
    for name in names:
        if name not in BENCHMARKS:
            raise ConfigError(f"unknown benchmark '{name}'; the benchmarks are: {', '.join(BENCHMARKS)}.")
        if BENCHMARKS[name].executes and not execute_code:
            raise ConfigError(
                f"{name} runs the programs that the model writes, on this machine; execute_code (--execute-code) "
                "allows it.\nNothing isolates them: use a container without network for a model that nobody has vetted."
            )
    _need_module("lm_eval.models.huggingface")
    lm_eval = _need_module("lm_eval.tasks")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it logs how its own command line would be used
    datasets.disable_progress_bars()
    folders = [Path(__file__).parent, *(Path(lm_eval.__file__).parent / folder for folder in FOLDERS)]
    manager = lm_eval.TaskManager(include_path=folders, include_defaults=False)
    return [_prepare(name, manager, data, limit, seed) for name in names]


def _prepare(name: str, manager: Any, data: Path | None, limit: int | None, seed: int) -> PreparedTask:
    benchmark = BENCHMARKS[name]
    _need_download(name, seed)
    wanted = list(benchmark.tasks) if data is None else local_group(name, data, manager.all_tasks)
    try:
        tasks: dict[str, Any] = dict(sorted(manager.load(wanted)["tasks"].items()))
    except DATA_ERRORS as error:
        reason = f"{type(error).__name__}: {error.__cause__ or error}".splitlines()[0][:200]
        remedy = "Correct its file." if data else "Give a folder that holds it as a local file (names: see the help)."
        where = data or "the hub"
        raise ConfigError(f"{name}: lm-eval cannot use its data from {where} ({reason}).\n{remedy}") from error
    sizes = {task: len(loaded.task_docs) for task, loaded in tasks.items()}
    items = first_items(sizes, limit, together=benchmark.subtask_field is not None)
    for task, count in items.items():
        tasks[task].set_fewshot_seed(seed)
        if benchmark.shots is not None and tasks[task].config.num_fewshot != 0:
            tasks[task].set_config("num_fewshot", benchmark.shots)
        if data is not None:
            check_items(tasks[task], count)
    return PreparedTask(name, tasks, items)


def first_items(sizes: Mapping[str, int], limit: int | None, together: bool) -> dict[str, int]:
    """How many of the first items of each task to score; tasks with none are left out.

    With `together` the tasks share the limit in turn, by name; otherwise each is another scoring of the same items.
    """
    if limit is None or not together:
        return {task: size if limit is None else min(limit, size) for task, size in sizes.items()}
    turns = sorted((turn, task) for task, size in sizes.items() for turn in range(size))
    return dict(Counter(task for _, task in turns[:limit]))


def run_tasks(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prepared: Sequence[PreparedTask], batch_size: int
) -> Iterator[TaskResult]:
    """Score a causal language model in eval mode on benchmarks; each result as soon as it is known.

    The call checks, the iteration scores, `batch_size` sequences in a forward pass. Prompts longer than the model's
    window lose their beginning, as everywhere in lm-eval. A tokenizer without a pad token gets one.

    Raises:
        ConfigError: the model's window cannot hold an answer.
        ModelError: out of memory.

    """
    wrap = _need_module("lm_eval.models.huggingface").HFLM
    language_model = wrap(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size)
    for name, task in ((benchmark.name, task) for benchmark in prepared for task in benchmark.tasks.values()):
        generation: dict[str, Any] = task.config.generation_kwargs or {}
        longest = generation.get("max_gen_toks", language_model.max_gen_toks)
        if task.OUTPUT_TYPE == "generate_until" and longest >= language_model.max_length:
            raise ConfigError(
                f"{name}: answers may take {longest} tokens, but the model's window is {language_model.max_length}; "
                "leave it out for this model."
            )
    chat = tokenizer.chat_template is not None  # pyright: ignore[reportUnknownMemberType]
    return (_score(benchmark, language_model, chat) for benchmark in prepared)


def _score(prepared: PreparedTask, language_model: Any, chat_template: bool) -> TaskResult:
    benchmark = BENCHMARKS[prepared.name]
    remedy = "Lower --task-batch (batch_size), use --dtype bfloat16, or a device with more memory."
    with explain_out_of_memory(remedy, f"scoring {prepared.name}"):
        samples = _need_module("lm_eval.evaluator").evaluate(
            language_model,
            {"tasks": {task: prepared.tasks[task] for task in prepared.items}},
            samples={task: list(range(count)) for task, count in prepared.items.items()},
            bootstrap_iters=0,
            apply_chat_template=benchmark.chat and chat_template,
            fewshot_as_multiturn=True,
            confirm_run_unsafe_code=benchmark.executes,  # allowed, or it would not have been prepared
        )["samples"]
    values = [_item_values(score, samples) for score in benchmark.scores]
    (headline, *others), count = [float(np.mean(part)) for part in values], len(values[0])
    stderr = float(np.std(values[0], ddof=1)) / count**0.5 if count > 1 else None
    shots = int(prepared.tasks[next(iter(prepared.items))].config.num_fewshot or 0)
    note = "generated programs ran on this machine" if benchmark.executes else ""
    if benchmark.shot_file and not shots:
        note = f"zero-shot: the folder has no {benchmark.shot_file} file of worked examples"
    labels = [score.label for score in benchmark.scores]
    further = dict(zip(labels[1:], others, strict=True))
    return TaskResult(prepared.name, labels[0], headline, stderr, count, shots, further, note)


def _item_values(score: Score, samples: Mapping[str, Any]) -> list[float]:
    return [
        float(item[score.metric])
        for task, items in samples.items()
        if score.task in (None, task)
        for item in items
        if item["filter"] == score.filter
    ]


def _need_module(name: str) -> Any:
    """Import a module of the extra. Raises `ConfigError` where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"benchmarks need lm-eval ({error}); run: pip install 'spice-select[tasks]'") from error


def _need_download(name: str, seed: int) -> None:
    """Find what scores the benchmark and comes with no package; allow code_eval to run, seed language detection."""
    try:
        if BENCHMARKS[name].executes:
            evaluate = _need_module("evaluate")
            evaluate.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # it would count its downloads at a server of its own
            os.environ["HF_ALLOW_CODE_EVAL"] = "1"
            evaluate.load("code_eval")
        elif name == "ifeval":
            _need_module("langdetect.detector_factory").DetectorFactory.seed = seed
            _need_module("nltk").data.find("tokenizers/punkt_tab/english/")
    except (OSError, LookupError) as error:
        command = BENCHMARKS[name].download
        raise ConfigError(f"{name} is scored with a download that is missing; run once, online:\n{command}") from error
