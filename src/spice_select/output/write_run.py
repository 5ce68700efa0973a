"""All files of a finished run but its manifest, which comes last and marks the run complete."""

# pyarrow ships no annotations
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false

from collections.abc import Sequence
from pathlib import Path

from spice_select.choices import PoolRecord
from spice_select.files.atomic import write_text
from spice_select.files.directory import SCORES
from spice_select.output import recipes
from spice_select.output.scores import write_scores
from spice_select.output.subset import write_rejected, write_selected, write_selected_parquet, write_training_table
from spice_select.output.summary import Summary
from spice_select.pool.types import Chat, Listing


def chosen_rows(records: Sequence[PoolRecord]) -> list[int]:
    """Example indices of all picks, in the pool's order."""
    return sorted(row for record in records for row in record.picked_rows)


def write_results(
    directory: Path,
    pool: Listing,
    chosen: Sequence[Chat],
    records: Sequence[PoolRecord],
    summary: Summary,
    target: recipes.Target,
    run_yaml: str,
    parquet: bool,
) -> None:
    """Write the files of `output/directory.py`'s list into `directory`, which exists; `chosen` in the pool's order.

    Raises:
        OutputError: a file cannot be written.

    """
    write_selected(directory / "selected.jsonl", chosen)
    if parquet:
        write_selected_parquet(directory / "selected.parquet", chosen)
    if pool.rejected:
        write_rejected(directory / "rejected.jsonl", pool.rejected)
    write_scores(directory / SCORES, pool.lines, records)
    table = write_training_table(directory / recipes.TRAIN_FILE, chosen)
    kept = {share.source: share.kept for share in summary.sources if share.kept}
    about = recipes.Selection(selected=summary.kept, pool=summary.rows, sources=kept)
    for name, text in recipes.trainer_files(target, about, table).items():
        write_text(directory / name, text)
    write_text(directory / "run.yaml", run_yaml)
