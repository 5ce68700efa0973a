"""The rows of a fine-tuning: a finished run's directory, or any pool; in both cases with the masks of selection."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import datasets
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from spice_select.config_file import load_yaml
from spice_select.errors import ConfigError, PoolError
from spice_select.files.directory import CHAT_TEMPLATE, MANIFEST
from spice_select.files.records import read_json
from spice_select.output.trainers import EVAL_FILE, IGNORED, TRAIN_FILE, training_dataset
from spice_select.pool.examples import PoolInput, PoolOptions, read_pool
from spice_select.pool.sources import as_list

Data: TypeAlias = PoolInput | Sequence[PoolInput]

_SAVED_DATASET = ("state.json", "dataset_dict.json")


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """Rows for the trainer: `input_ids`, and `labels` with -100 where a token is no target."""

    dataset: datasets.Dataset
    left_out: int  # rows that cannot be trained on, or of which `max_length` leaves no target

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.dataset)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row, trained or not."""
        return [len(ids) for ids in cast("list[list[int]]", self.dataset["input_ids"])]

    @property
    def tokens(self) -> int:
        """Tokens of all rows, trained or not."""
        return sum(self.lengths)

    @property
    def trained_tokens(self) -> int:
        """Targets of the loss in one pass."""
        labels = cast("list[list[int]]", self.dataset["labels"])
        return sum(label != IGNORED for row in labels for label in row)


def target_digests(data: Data) -> list[str]:
    """The sha256 of the files that the rows of a run's directory were chosen for; none for other data."""
    directory = run_directory(data)
    if directory is None or not (directory / MANIFEST).is_file():
        return []
    targets: list[dict[str, Any]] = read_json(directory / MANIFEST, "Run the selection again.").get("target", [])
    return [digest for target in targets for digest in target.get("data", [target["sha256"]])]


def run_directory(data: Data) -> Path | None:
    """The directory if `data` is one that a run wrote, None if it is a pool; other directories raise an error."""
    inputs = as_list(data)
    found = [path for item in inputs if isinstance(item, (str, Path)) if _is_run(path := Path(item).expanduser())]
    if found and len(inputs) > 1:
        raise ConfigError(
            f"{found[0]}: a run's directory cannot be combined with other inputs; name its selected.jsonl instead."
        )
    return found[0] if found else None


def run_options(data: Data) -> dict[str, Any]:
    """`model`, `revision` and `max_length` of the run whose directory `data` is, as far as `run.yaml` holds them.

    `chat_template` is the run's own copy of the template, if it has one.
    Whether the model's own code may run is not taken over: the user allows that each time.
    """
    directory = run_directory(data)
    if directory is None or not (path := directory / "run.yaml").is_file():
        return {}
    options = load_yaml(path).options
    found = {key: options[key] for key in ("model", "revision", "max_length") if options.get(key)}
    template = directory / CHAT_TEMPLATE
    return found | ({"chat_template": str(template)} if template.is_file() else {})


def training_rows(
    data: Data, tokenizer: PreTrainedTokenizerBase, options: PoolOptions, note: Callable[[str], None]
) -> TrainingRows:
    """Read and tokenise `data`; `note` receives what the user should know of its rows.

    Raises as `read_pool` and `training_dataset` do, and if no row keeps a target.
    """
    directory = run_directory(data)
    if directory is None:
        pool = read_pool(as_list(data), tokenizer, options, note)
        for remark in pool.remarks(options.max_length):
            note(remark)
        ids = [example.input_ids.tolist() for example in pool.examples]
        labels = [
            [token if target else IGNORED for token, target in zip(tokens, example.trained.tolist(), strict=True)]
            for tokens, example in zip(ids, pool.examples, strict=True)
        ]
        return TrainingRows(datasets.Dataset.from_dict({"input_ids": ids, "labels": labels}), len(pool.rejected))
    if options.format or options.columns or options.per_file or options.skip_invalid:
        raise ConfigError(
            f"{directory}: is a run's directory, whose rows were checked when it was written; "
            "leave out --format, --column and --skip-invalid."
        )
    path = directory / TRAIN_FILE
    dataset = training_dataset(path, tokenizer, options.max_length, note)
    if not len(dataset):
        raise PoolError(f"{path}: max_length {options.max_length} cuts off every response; choose a larger one.")
    left_out = cast(int, pq.read_metadata(path).num_rows) - len(dataset)  # pyright: ignore[reportUnknownMemberType]
    if (directory / EVAL_FILE).is_file():
        note(f"the rows of {directory / EVAL_FILE} are held out for evaluation")
    return TrainingRows(dataset, left_out)


def _is_run(path: Path) -> bool:
    if (path / TRAIN_FILE).is_file():
        return True
    if (path / "checkpoint" / "identity.json").is_file():
        raise PoolError(f"{path}: holds an unfinished run; finish it with spice-select run ... --resume.")
    if path.is_dir() and not any((path / name).is_file() for name in _SAVED_DATASET):
        raise PoolError(
            f"{path}: is neither a run's directory (no {TRAIN_FILE}) nor a dataset saved by datasets.save_to_disk.\n"
            "Name the data files one by one instead of their folder."
        )
    return False
