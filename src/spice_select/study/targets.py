"""The targets of a study: their rows, which of them a seed draws, and the files that hold the drawn ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from spice_select.errors import ConfigError
from spice_select.output.write_run import write_jsonl
from spice_select.pool.examples import Example, Pool, PoolOptions, read_pool
from spice_select.pool.problems import one_line
from spice_select.progress import Progress
from spice_select.row_tables import plain_json
from spice_select.schedule.targets import plain_text
from spice_select.study.config import READING_KEYS, StudyConfig
from spice_select.study.records import digest


@dataclass(frozen=True, slots=True)
class TargetRows:
    """A target: the rows of each of its files, in the file's order, that may be drawn; and all their sources.

    `identity` is a digest of the rows that may be drawn, wherever their files lie.
    """

    name: str
    parts: list[list[Example]]
    sources: frozenset[str]
    identity: str
    remarks: list[str]

    def drawn(self, seed: int, count: int, stride: int) -> list[list[Example]]:
        """The `count` rows of a seed, of each file the same number: the first of its `stride` rows.

        Seed s owns rows s * stride to (s + 1) * stride, over all files; a file that ends begins again. So fewer rows
        are always a part of more, and seeds share rows only where a file is short.
        """
        files = len(self.parts)
        start, number = seed * stride // files, count // files
        return [[part[(start + place) % len(part)] for place in range(number)] for part in self.parts]


def written(rows: Sequence[Sequence[Example]], directory: Path, name: str) -> list[Path]:
    """The files of drawn rows in `directory`: `name`.jsonl, or numbered where a target has several files."""
    directory.mkdir(exist_ok=True)
    paths = [directory / (f"{name}.jsonl" if len(rows) == 1 else f"{name}@{part}.jsonl") for part in range(len(rows))]
    for path, part in zip(paths, rows, strict=True):
        if not path.exists():
            write_jsonl(path, [row.row.data for row in part])
    return paths


def read_targets(
    config: StudyConfig, tokenizer: PreTrainedTokenizerBase, pool: Pool, heldout: Pool, progress: Progress
) -> dict[str, TargetRows]:
    """Read the rows of each target of a study; those that are held out too are left out.

    Raises `ConfigError` where a target has too few rows, or no row of its sources is held out, or in the pool although
    a cell takes rows of them; and as `read_pool`.
    """
    options = PoolOptions(**config.model_dump(include=READING_KEYS))
    evaluated = {plain_text(row) for row in heldout.examples}
    held, pooled = ({row.row.source for row in rows.examples} for rows in (heldout, pool))
    found: dict[str, TargetRows] = {}
    for name, places in config.targets.items():
        progress.note(f"reading target {name}")
        pools = [read_pool([place], tokenizer, options, progress.note) for place in places]
        files = [list(one.examples) for one in pools]
        parts = [[row for row in rows if plain_text(row) not in evaluated] for rows in files]
        for place, rows, left in zip(places, files, parts, strict=True):
            _refuse_too_few(name, place, len(rows), len(left), config.target_rows // len(places))
        sources = frozenset(row.row.source for rows in files for row in rows)
        _refuse_absent(name, sources, held, "held out")
        if any("of_target_sources" in cell for cell in config.cells.values()):
            _refuse_absent(name, sources, pooled, "in the pool")
        remarks = [f"Target {name}: {remark}" for one in pools for remark in one.remarks(config.max_length)]
        remarks += _remarks(name, files, parts, config, sources - held)
        identity = digest([[[row.row.source, plain_json(row.row.data)] for row in part] for part in parts])
        found[name] = TargetRows(name, parts, sources, identity, remarks)
    return found


def _refuse_too_few(name: str, place: str, rows: int, left: int, wanted: int) -> None:
    if left < wanted:
        also = f", and {rows - left:,} more that are held out too" if left < rows else ""
        raise ConfigError(
            f"target '{name}': {one_line(place)} has {left:,} rows{also}, but a seed draws {wanted:,}.\n"
            "Add rows that are not held out, or lower target_rows."
        )


def _refuse_absent(name: str, sources: frozenset[str], there: set[str], where: str) -> None:
    if not sources & there:
        theirs, ours = (one_line(", ".join(sorted(some)), 200) for some in (there, sources))
        raise ConfigError(
            f"target '{name}': no row of its sources ({ours}) is {where}, where the sources are {theirs}.\n"
            "A row's source is its field source, else its file's name: give the same rows the same source."
        )


def _remarks(
    name: str,
    files: Sequence[Sequence[Example]],
    parts: Sequence[Sequence[Example]],
    config: StudyConfig,
    missing: frozenset[str],
) -> list[str]:
    """What a reader of the target's table should know of its rows."""
    drawable = {id(row) for part in parts for row in part}
    left_out = [row for rows in files for row in rows if id(row) not in drawable]
    short = min(map(len, parts)) * len(parts) < config.seeds * config.target_rows
    remarks = {
        f"{len(left_out):,} rows of target {name} are held out too and not drawn": [
            row.row.location for row in left_out[:1]
        ],
        f"Sources of target {name} that are not held out": sorted(missing),
        f"Seeds share rows of target {name}": ["a file has too few for each to draw its own"] * short,
    }
    return [f"{text}: {one_line(', '.join(of), 300)}." for text, of in remarks.items() if of]
