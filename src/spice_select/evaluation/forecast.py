"""What an evaluation on held-out rows would take, from a few passes of it.

    from spice_select.evaluation.forecast import forecast_evaluate
    forecast_evaluate("tuned", ["heldout.jsonl"]).lines()

`spice-select evaluate --dry-run` does the same.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from spice_select.costs.forecast import Forecast
from spice_select.costs.memory import PeakMemory, obtainable_bytes
from spice_select.costs.speed import PassCost, measure_speed
from spice_select.evaluation.checkpoint import find_checkpoint, load_weights
from spice_select.evaluation.evaluate import read_heldout
from spice_select.evaluation.heldout import batch_losses, check_vocabulary, heldout_batches
from spice_select.pool.examples import PoolInput, PoolOptions
from spice_select.progress import NoProgress, Progress
from spice_select.proxy.loading import pick_device

REMEDY = "lower --token-budget, or use --dtype bfloat16"


def forecast_evaluate(
    checkpoint: str | Path,
    data: PoolInput | Sequence[PoolInput],
    *,
    against: str | Path | None = None,
    device: str = "auto",
    dtype: str = "float32",
    token_budget: int = 2048,
    max_length: int = 2048,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    skip_invalid: bool = False,
    limit_per_source: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Forecast:
    """What `evaluate` would take for the same arguments: time and memory. A few batches are timed.

    Args:
        checkpoint: as for `evaluate`.
        data: as for `evaluate`.
        against: a second checkpoint on the same rows; it is not loaded, and taken to be as large as the first.
        device: as for `evaluate`, and so are the others.
        dtype: of the weights.
        token_budget: padded tokens in one forward pass.
        max_length: tokens kept of a row.
        format: of the rows.
        columns: field of the format -> column of the files.
        skip_invalid: leave bad rows out.
        limit_per_source: the first so many rows of each source.
        revision: of `checkpoint`, or of its base.
        trust_remote_code: let the model repository's own Python code run.
        progress: told about stages.

    Raises:
        SpiceSelectError: as `evaluate`.

    """
    reading, tell = PoolOptions(format, dict(columns or {}), skip_invalid, max_length), progress or NoProgress()
    where = pick_device(device)
    found = find_checkpoint(checkpoint, revision=revision, trust_remote_code=trust_remote_code)
    if against is not None:
        find_checkpoint(against, trust_remote_code=trust_remote_code)
    tell.note(f"loading {checkpoint}")
    loaded = load_weights(found, where, dtype)
    pool = read_heldout(loaded, data, reading, limit_per_source, tell)
    check_vocabulary(loaded.model, pool)
    tell.note("timing a few batches")
    examples, pass_cost = pool.examples, PassCost.of(loaded.model)

    def cost(batch: Sequence[int]) -> float:
        rows = [examples[i] for i in batch]
        return pass_cost([len(row.input_ids) for row in rows], sum(row.trained_tokens for row in rows))

    def run(batch: Sequence[int]) -> None:
        batch_losses(loaded.model, [examples[i] for i in batch])

    batches = heldout_batches(examples, token_budget)
    peak = PeakMemory(where)
    speed = measure_speed(run, batches, cost, where)
    alone = speed.seconds([cost(batch) for batch in batches])
    return Forecast(
        len(examples),
        pool.total_tokens,
        pool.trained_tokens,
        {"held-out loss": alone if against is None else 2 * alone},
        peak.bytes(),
        obtainable_bytes(where),
        0,
        REMEDY,
    )
