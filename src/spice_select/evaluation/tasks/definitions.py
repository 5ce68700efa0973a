"""lm-eval's task objects, with its data source replaced by local rows where a folder is given."""

import difflib
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError

from spice_select.errors import ConfigError
from spice_select.evaluation.tasks.benchmarks import Benchmark
from spice_select.evaluation.tasks.local import find_file, need_file, read_rows
from spice_select.evaluation.tasks.programs import with_sandbox

Rows = list[dict[str, Any]]
INSTALL = "pip install 'spice-select[tasks]'"
_DOWNLOAD_ERRORS = (OSError, ValueError, DatasetsError, HfHubHTTPError)


def need_module(name: str) -> Any:
    """Import a module of the extra.

    Raises:
        ConfigError: it is not installed.

    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"benchmarks need lm-eval ({error}); run: {INSTALL}") from error


def build_tasks(name: str, benchmark: Benchmark, data: Path | None, seed: int) -> dict[str, Any]:
    """lm-eval's task objects of one benchmark by their names there; local parts without items are left out.

    Raises:
        ConfigError: a file or a field is missing; the hub cannot be reached.
        PoolError: a file is damaged.

    """
    if name == "ifeval":
        _need_sentence_data(seed)
    definitions = list(_definitions(benchmark))
    if data is not None:
        definitions = list(_localised(name, benchmark, definitions, data))
    tasks: dict[str, Any] = {}
    for definition in definitions:
        task = _make(name, definition)
        task.set_fewshot_seed(seed)
        tasks[str(definition["task"])] = task
    return tasks


def _localised(
    name: str, benchmark: Benchmark, definitions: list[dict[str, Any]], data: Path
) -> Iterator[dict[str, Any]]:
    """The definitions that have local rows, with these as their data."""
    part = benchmark.part
    test = _by_part(read_rows(need_file(data, name, benchmark.files), benchmark.convert), part)
    shot_file = find_file(data, benchmark.shot_files)
    shots = _by_part(read_rows(shot_file, benchmark.convert) if shot_file else [], part)
    names = [str(definition["dataset_name"]) if part else "" for definition in definitions]
    for unknown in (there for there in test if there not in names):
        close = difflib.get_close_matches(unknown, names, n=1, cutoff=0.0)[0]
        raise ConfigError(f"{name}: no {part} is called '{unknown}'; the nearest is '{close}'.")
    for here, definition in zip(names, definitions, strict=True):
        if here not in test:
            continue
        worked, needed = shots.get(here, []), int(definition.get("num_fewshot") or 0)
        changes = _data_source(test[here], worked)
        if shot_file is None and benchmark.shot_files:
            changes["num_fewshot"] = 0
        elif shot_file is not None and len(worked) < needed:
            raise ConfigError(f"{shot_file.name}: fewer than {needed} worked examples{f' of {here}' if part else ''}.")
        yield {**definition, **changes}


def _definitions(benchmark: Benchmark) -> Iterator[dict[str, Any]]:
    folder = Path(str(need_module("lm_eval").__file__)).parent / "tasks"
    load = need_module("lm_eval.tasks._yaml_loader").load_yaml
    for path in sorted(folder.glob(benchmark.definitions)):
        loaded: dict[str, Any] = load(path, resolve_func=not benchmark.executes)
        definition = {key: value for key, value in loaded.items() if key != "tag"}
        if benchmark.shots is not None:
            definition["num_fewshot"] = benchmark.shots
        yield with_sandbox(definition, path.parent) if benchmark.executes else definition


def _by_part(rows: Rows, part: str | None) -> Mapping[str, Rows]:
    groups: dict[str, Rows] = {}
    for row in rows:
        groups.setdefault(str(row[part]) if part else "", []).append(row)
    return groups


def _data_source(test: Rows, shots: Rows) -> dict[str, Any]:
    """Overrides that put rows in the place of a definition's data set and splits."""
    splits = DatasetDict()
    splits["test"] = Dataset.from_list(test)
    if shots:
        splits["shots"] = Dataset.from_list(shots)

    def load(**_: object) -> DatasetDict:
        return splits

    return {
        "dataset_name": None,
        "dataset_kwargs": None,
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
        "fewshot_split": "shots" if shots else None,
        "custom_dataset": load,
    }


def _make(name: str, definition: dict[str, Any]) -> Any:
    make = need_module("lm_eval.api.task").ConfigurableTask
    if "custom_dataset" in definition:
        return make(config=definition)
    try:
        return make(config=definition)
    except _DOWNLOAD_ERRORS as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{name}: its data cannot be had from the hub ({reason[:200]}).\n"
            "Give a folder that holds it as a local file (see the help for the names)."
        ) from error


def _need_sentence_data(seed: int) -> None:
    """Instructions on sentences use nltk's Punkt data, which no package carries; language detection is seeded."""
    nltk = need_module("nltk")
    for module in ("immutabledict", "langdetect"):
        need_module(module)
    need_module("langdetect.detector_factory").DetectorFactory.seed = seed
    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        raise ConfigError(
            "ifeval counts sentences with nltk's Punkt data, which is not here; with a connection, once:\n"
            "python -m nltk.downloader punkt_tab\n"
            "(offline, copy the folder to nltk_data/tokenizers/punkt_tab and set NLTK_DATA to that nltk_data)."
        ) from None
