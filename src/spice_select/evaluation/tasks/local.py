"""Local files as the data of lm-eval's tasks; `datasets` reads them for lm-eval as it reads those of the hub.

The functions on whole data sets are lm-eval's `process_docs`, two of them named by the YAML files of this folder.
"""

import glob
import operator
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.exceptions import DatasetsError
from jinja2 import TemplateError

from spice_select.errors import ConfigError
from spice_select.evaluation.tasks.benchmarks import BENCHMARKS, Benchmark
from spice_select.pool.readers import READERS

if TYPE_CHECKING:
    from datasets import Dataset

DATA_ERRORS = (OSError, ValueError, TypeError, LookupError, AttributeError, DatasetsError, TemplateError)
"""What lm-eval lets through from data that cannot be loaded or do not fit its task."""

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")
MBPP_TEST_IDS = range(11, 511)
"""MBPP numbers its own splits: 1-10 prompt, 11-510 test, 511-600 validation, 601-974 training."""


def local_group(name: str, folder: Path, known: Collection[str]) -> dict[str, Any]:
    """A benchmark as a group of lm-eval's tasks (names in `known`), with settings that make local files their data.

    Raises `ConfigError` without a file or where a row does not fit, and `PoolError` where a file is damaged.
    """
    benchmark = BENCHMARKS[name]
    test, shots = _find(folder, benchmark.files), _find(folder, [benchmark.shot_file] if benchmark.shot_file else [])
    if test is None:
        names = " or ".join(f"{stem}.jsonl" for stem in benchmark.files)
        raise ConfigError(
            f"{folder}: no file of {name}; looked for {names} (also {', '.join(SUFFIXES[1:])}).\n"
            "Put it there, or leave the folder out to let lm-eval fetch its own from the hub."
        )
    files = {"test": test} if shots is None else {"test": test, "shots": shots}
    rows = {split: _read_rows(path) for split, path in files.items()}
    yaml = Path(__file__).with_name(f"local_{name}.yaml")
    tasks = [{"task": task} for task in ([yaml.stem] if yaml.is_file() else benchmark.tasks)]
    settings: dict[str, Any] = {
        "group": name,
        "task": tasks if benchmark.subtask_field is None else _subtasks(benchmark, test, rows["test"], known),
        "dataset_path": _suffix(test).replace("jsonl", "json")[1:],
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: glob.escape(str(path)) for split, path in files.items()}},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
        "fewshot_split": "shots" if shots else None,
    }
    return settings if shots or not benchmark.shot_file else settings | {"num_fewshot": 0}


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file. Raises `ConfigError` where there is none or one is no object, `PoolError` for damage."""
    rows: list[dict[str, Any]] = []
    for row in READERS[_suffix(path)](path):
        if row.data is None:
            raise ConfigError(f"{path.name}, row {row.number}: {row.problem}.")
        rows.append(row.data)
    if not rows:
        raise ConfigError(f"{path}: holds no row.")
    return rows


def _subtasks(
    benchmark: Benchmark, path: Path, rows: Sequence[Mapping[str, Any]], known: Collection[str]
) -> list[dict[str, Any]]:
    field, (prefix,) = str(benchmark.subtask_field), benchmark.tasks
    for number, row in enumerate(rows, 1):
        subtask = str(row.get(field))
        if f"{prefix}_{subtask}" not in known:
            raise ConfigError(
                f"{path.name}, row {number}: field '{field}' ({subtask[:60]}) is no subtask that lm-eval knows.\n"
                f"Correct it; the fields are: {', '.join(row)}."
            )
    return [
        {"task": f"{prefix}_{subtask}", "process_docs": partial(_subtask_rows, field=field, subtask=subtask)}
        for subtask in dict.fromkeys(row[field] for row in rows)
    ]


def check_items(task: Any, count: int) -> None:
    """Render the items as lm-eval does, and score an empty answer where that runs no program.

    Raises `ConfigError` where an item lacks a field or does not fit otherwise, or worked examples are too few.
    """
    shots = int(task.config.num_fewshot or 0)
    if shots and task.fewshot_cfg.split and len(task.fewshot_docs()) < shots:
        raise ConfigError(f"{task.task_name}: the local file holds fewer than {shots} worked examples.")
    for number, row in enumerate(task.task_docs.select(range(count)), 1):
        item = {name: value for name, value in row.items() if value is not None}
        try:
            task.doc_to_text(item)
            target = task.doc_to_target(item)
            if task.OUTPUT_TYPE == "multiple_choice":
                choices = task.doc_to_choice(item)
                target = choices.index(target) if isinstance(target, str) else choices[target]
            elif not task.config.unsafe_code:
                task.process_results(item, [""])
        except DATA_ERRORS as error:
            reason = f"{type(error).__name__}: {error}"[:200]
            where = f"{task.task_name}, item {number}: does not fit lm-eval's task ({reason})"
            raise ConfigError(f"{where}.\nCorrect it; its fields are: {', '.join(item)}.") from error


def _find(folder: Path, stems: Sequence[str]) -> Path | None:
    paths = (folder / f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def _suffix(path: Path) -> str:
    return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


def _subtask_rows(rows: "Dataset", field: str, subtask: str) -> "Dataset":
    return rows.filter(partial(operator.eq, subtask), input_columns=field)


def mbpp_test_split(rows: "Dataset") -> "Dataset":
    """The rows of MBPP's test split; the sanitized set calls a task's text `prompt`."""
    split = rows.filter(MBPP_TEST_IDS.__contains__, input_columns="task_id")
    return split if "text" in rows.column_names else split.rename_column("prompt", "text")


def truthfulqa_choices(rows: "Dataset") -> "Dataset":
    """Multiple choice from answers: mc1 is the best against the incorrect ones, mc2 every correct one against them."""
    if "mc1_targets" in rows.column_names:
        return rows
    return rows.map(_choices, with_indices=True, remove_columns=rows.column_names)


def _choices(row: Mapping[str, Any], index: int) -> dict[str, Any]:
    fields = {name.lower().replace(" ", "_"): value for name, value in row.items() if value is not None}
    try:
        question, best = fields["question"], fields["best_answer"].strip()
        right, wrong = _answers(fields["correct_answers"]), _answers(fields["incorrect_answers"])
    except KeyError as error:
        raise ConfigError(f"truthfulqa, row {index + 1}: no field {error}; the fields are: {', '.join(row)}.") from None
    if not wrong:
        raise ConfigError(f"truthfulqa, row {index + 1}: has no incorrect answer to choose against.")
    right = list(dict.fromkeys([*right, best]))
    return {"question": question, "mc1_targets": _labelled([best], wrong), "mc2_targets": _labelled(right, wrong)}


def _answers(value: str | Sequence[str]) -> list[str]:
    parts = value.split(";") if isinstance(value, str) else value
    return list(dict.fromkeys(text for part in parts if (text := part.strip())))


def _labelled(right: list[str], wrong: list[str]) -> dict[str, Any]:
    return {"choices": [*right, *wrong], "labels": [1] * len(right) + [0] * len(wrong)}
