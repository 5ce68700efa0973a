"""What benchmarks need besides a model: names, packages and data are checked, and lm-eval's tasks are made."""

import difflib
import importlib
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from spice_select.errors import ConfigError
from spice_select.evaluation.tasks.benchmarks import BENCHMARKS
from spice_select.evaluation.tasks.local import DATA_ERRORS, check_items, local_settings

FOLDERS = ("arc", "bbh/cot_fewshot", "gsm8k", "humaneval", "ifeval", "mbpp", "mmlu/default", "truthfulqa")
"""Where lm-eval defines the benchmarks; to index all of its tasks takes it 15 s."""

METRIC = ("the metric code_eval of `evaluate`", "python -c \"import evaluate; evaluate.load('code_eval')\"")
DOWNLOADS = {
    "humaneval": METRIC,
    "mbpp": METRIC,
    "ifeval": ("the Punkt sentence data of nltk", "python -m nltk.downloader punkt_tab"),
}
"""What scores a benchmark and comes with no package, and the command that fetches it once."""


@dataclass(frozen=True, slots=True)
class PreparedTask:
    """A benchmark whose name, packages and data are good: lm-eval's tasks, and how many first items each scores."""

    name: str
    tasks: Mapping[str, Any]
    items: Mapping[str, int]


def prepare_tasks(
    names: Sequence[str], data: Path | None, limit: int | None, execute_code: bool, seed: int
) -> list[PreparedTask]:
    """Check and read everything that benchmarks need besides a model.

    Args:
        names: of `BENCHMARKS`.
        data: a folder of local files (names in `benchmarks.py`); None lets lm-eval fetch from the hub.
        limit: the first items of each benchmark; one with subtasks takes one item of each subtask in turn until there
            are that many in total. None scores all.
        execute_code: allows humaneval and mbpp to run what the model writes.
        seed: draws worked examples (gsm8k) and steadies language detection (ifeval).

    Raises:
        ConfigError: an unknown name; code that may not be executed; a limit below 1; a missing file, field or package.
        PoolError: a local file is damaged.

    """
    for name in names:
        _check_name(name, execute_code)
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; at least one item is needed.")
    if data is not None and not data.is_dir():
        raise ConfigError(f"{data}: no such folder of benchmark files.")
    need_module("lm_eval.models.huggingface")
    lm_eval = need_module("lm_eval.tasks")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it logs how its own command line would be used
    datasets.disable_progress_bars()
    folders = [Path(__file__).parent, *(Path(lm_eval.__file__).parent / folder for folder in FOLDERS)]
    manager = lm_eval.TaskManager(include_path=folders, include_defaults=False)
    return [_prepare(name, manager, data, limit, seed) for name in names]


def _check_name(name: str, execute_code: bool) -> None:
    if name not in BENCHMARKS:
        close = difflib.get_close_matches(name, BENCHMARKS, n=1, cutoff=0.4)
        hint = f"did you mean '{close[0]}'?" if close else f"the benchmarks are: {', '.join(BENCHMARKS)}."
        raise ConfigError(f"unknown benchmark '{name}'; {hint}")
    if BENCHMARKS[name].executes and not execute_code:
        raise ConfigError(
            f"{name} runs the programs that the model writes, on this machine; execute_code (--execute-code) "
            "allows it.\nNothing isolates them: use a container without network for a model that nobody has vetted."
        )


def _prepare(name: str, manager: Any, data: Path | None, limit: int | None, seed: int) -> PreparedTask:
    if name in DOWNLOADS:
        _need_download(name, seed)
    wanted = list(BENCHMARKS[name].tasks) if data is None else _local_group(name, manager, data)
    try:
        tasks: dict[str, Any] = dict(sorted(manager.load(wanted)["tasks"].items()))
    except DATA_ERRORS as error:
        reason = f"{type(error).__name__}: {error.__cause__ or error}".splitlines()[0][:200]
        if data is not None:
            raise ConfigError(f"{name}: its rows in {data} do not fit lm-eval's task ({reason}).") from error
        raise ConfigError(
            f"{name}: its data cannot be had from the hub ({reason}).\n"
            "Give a folder that holds it as a local file (see the help for the names)."
        ) from error
    sizes = {task: len(loaded.task_docs) for task, loaded in tasks.items()}
    items = first_items(sizes, limit, together=BENCHMARKS[name].subtask_field is not None)
    for task, count in items.items():
        tasks[task].set_fewshot_seed(seed)
        if BENCHMARKS[name].shots is not None and tasks[task].config.num_fewshot != 0:
            tasks[task].set_config("num_fewshot", BENCHMARKS[name].shots)
        if data is not None:
            check_items(tasks[task], count)
    return PreparedTask(name, tasks, items)


def _local_group(name: str, manager: Any, data: Path) -> dict[str, Any]:
    """lm-eval's tasks of a benchmark with local files as their data, as a group of lm-eval's."""
    settings = local_settings(name, BENCHMARKS[name], data)
    for task in (member["task"] for member in settings["task"]):
        if task not in manager.all_tasks:
            close = difflib.get_close_matches(task, manager.all_subtasks, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{name}: lm-eval has no task '{task}'; the nearest is '{close}'.")
    return {"group": name, **settings}


def first_items(sizes: Mapping[str, int], limit: int | None, together: bool) -> dict[str, int]:
    """How many of the first items of each task to score; tasks with none are left out.

    Args:
        sizes: items of each task.
        limit: as in `prepare_tasks`.
        together: the tasks share the limit in turn, by name; otherwise each is another scoring of the same items.

    """
    if limit is None or not together:
        return {task: size if limit is None else min(limit, size) for task, size in sizes.items()}
    turns = sorted((turn, task) for task, size in sizes.items() for turn in range(size))
    return dict(Counter(task for _, task in turns[:limit]))


def need_module(name: str) -> Any:
    """Import a module of the extra. Raises `ConfigError` where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"benchmarks need lm-eval ({error}); run: pip install 'spice-select[tasks]'") from error


def _need_download(name: str, seed: int) -> None:
    """Look for what scores the benchmark; --execute-code allows code_eval to run, and language detection is seeded."""
    try:
        if BENCHMARKS[name].executes:
            evaluate = need_module("evaluate")
            evaluate.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # it would count its downloads at a server of its own
            os.environ["HF_ALLOW_CODE_EVAL"] = "1"
            evaluate.load("code_eval")
        else:
            need_module("langdetect.detector_factory").DetectorFactory.seed = seed
            need_module("nltk").data.find("tokenizers/punkt_tab/english/")
    except (OSError, LookupError) as error:
        what, command = DOWNLOADS[name]
        raise ConfigError(f"{name} needs {what}, which is not here; with a connection, once:\n{command}") from error
