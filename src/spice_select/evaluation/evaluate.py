"""Evaluation of a checkpoint on held-out rows, and the JSON that keeps it.

    from spice_select.evaluation.evaluate import evaluate
    evaluation = evaluate("tuned", ["heldout.jsonl"])
    evaluation.heldout.macro, evaluation.heldout.macro_interval

`spice-select evaluate` does the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spice_select.evaluation.bootstrap import RESAMPLES
from spice_select.evaluation.checkpoint import LoadedModel, find_checkpoint, load_weights, target_digests
from spice_select.evaluation.heldout import HeldoutLoss, heldout_loss, limited
from spice_select.file_options import FileOptions
from spice_select.pool.examples import PoolInput, PoolOptions, SourceFile, read_pool
from spice_select.pool.sources import as_list
from spice_select.progress import NoProgress, Progress
from spice_select.proxy.loading import pick_device


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A checkpoint's held-out loss and what it was measured on."""

    checkpoint: str  # as the user gave it
    fingerprint: str  # what pins its weights
    files: list[SourceFile]  # the inputs, with their sha256
    rejected: int  # rows left out because they cannot be used
    truncated: int  # evaluated rows that `max_length` cut
    settings: dict[str, Any]  # what decides the figures besides model and data
    heldout: HeldoutLoss


def evaluate(
    checkpoint: str | Path,
    data: PoolInput | Sequence[PoolInput],
    *,
    device: str = "auto",
    dtype: str = "auto",
    batch_tokens: int = 2048,
    max_length: int = 2048,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    per_file: Mapping[str, FileOptions] | None = None,
    skip_invalid: bool = False,
    limit_per_source: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Held-out loss of a checkpoint, per source and over all, with bootstrap intervals.

    Args:
        checkpoint: an adapter's or a model's directory, a hub id, or the embedded model's name.
        data: held-out files, dataset directories, hub ids, datasets or lists of rows.
        device: "auto", "cpu", "cuda", ...
        dtype: of the weights, "float32", "bfloat16" or "auto" (bfloat16 on a GPU that supports it, else float32).
        batch_tokens: padded tokens in one forward pass.
        max_length: tokens kept of a row.
        format: of the rows; None detects it.
        columns: field of the format -> column of the files.
        per_file: the same two for single inputs, by their names.
        skip_invalid: leave bad rows out instead of stopping.
        limit_per_source: how many first rows of each source to evaluate; None for all.
        revision: of a hub id, or of the hub id that is an adapter's base.
        trust_remote_code: let the model repository's own Python code run.
        resamples: draws of the bootstrap.
        seed: of the draws.
        progress: receives the stages and the finished rows.

    Raises:
        SpiceSelectError: whatever the user can correct; the message says how.

    """
    reading = PoolOptions(format, dict(columns or {}), skip_invalid, max_length, per_file or {})
    where, reporter = pick_device(device), progress or NoProgress()
    reporter.note(f"loading {checkpoint}")
    found = find_checkpoint(checkpoint, revision=revision, trust_remote_code=trust_remote_code)
    loaded = load_weights(found, where, dtype)
    result = evaluate_model(loaded, data, reading, limit_per_source, batch_tokens, resamples, seed, reporter)
    chosen_for = set(target_digests(checkpoint))
    for file in result.files:
        if file.sha256 in chosen_for:
            reporter.note(
                f"warning: {file.name} is the target that the training rows were chosen for; "
                "its loss says little about other rows. Evaluate on rows that were no target."
            )
    return result


def evaluate_model(
    loaded: LoadedModel,
    data: PoolInput | Sequence[PoolInput],
    reading: PoolOptions,
    limit_per_source: int | None,
    batch_tokens: int,
    resamples: int,
    seed: int,
    reporter: Progress,
) -> Evaluation:
    """`evaluate` for a model that is loaded already."""
    pool = limited(read_pool(as_list(data), loaded.tokenizer, reading, reporter.note), limit_per_source)
    reporter.note(f"{len(pool.examples):,} held-out rows, {pool.trained_tokens:,} tokens to predict")
    for remark in pool.remarks(reading.max_length):
        reporter.note(remark)
    settings = {
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "max_length": reading.max_length,
        "limit_per_source": limit_per_source,
        "resamples": resamples,
        "seed": seed,
    }
    losses = heldout_loss(loaded.model, pool, batch_tokens, resamples, seed, reporter)
    return Evaluation(loaded.name, loaded.fingerprint, pool.files, len(pool.rejected), pool.truncated, settings, losses)


def evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation as plain values, see docs/output.md; an `Interval` is a tuple, which JSON writes as a list."""
    heldout = asdict(evaluation.heldout)
    return {
        "settings": evaluation.settings,
        "data": [asdict(file) for file in evaluation.files],
        "rejected": evaluation.rejected,
        "truncated": evaluation.truncated,
        "sources": {source.pop("source"): source for source in heldout["sources"]},
        "macro": {"mean": heldout["macro"], "interval": heldout["macro_interval"]},
        "all_rows": {"rows": len(heldout["rows"]), "mean": heldout["mean"]},
        "rows": {row.pop("id"): row for row in heldout["rows"]},
    }
