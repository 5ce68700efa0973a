"""What an evaluation on held-out rows would take, from a few passes of it."""

from collections.abc import Sequence

from spice_select.costs.forecast import Forecast
from spice_select.costs.memory import obtainable_bytes
from spice_select.costs.speed import measure_passes
from spice_select.evaluation.checkpoint import LoadedModel
from spice_select.evaluation.evaluate import read_heldout
from spice_select.evaluation.heldout import batch_losses, check_vocabulary, heldout_batches
from spice_select.pool.examples import PoolInput, PoolOptions
from spice_select.progress import NoProgress, Progress

REMEDY = "lower --token-budget, or use --dtype bfloat16"


def forecast_evaluation(
    loaded: LoadedModel,
    data: PoolInput | Sequence[PoolInput],
    reading: PoolOptions,
    *,
    limit_per_source: int | None = None,
    token_budget: int = 2048,
    checkpoints: int = 1,
    progress: Progress | None = None,
) -> Forecast:
    """Time and memory of `evaluate_model` for the same arguments, for `checkpoints` as large as this one in turn.

    Raises:
        SpiceSelectError: as `evaluate_model`.

    """
    reporter = progress or NoProgress()
    pool = read_heldout(loaded, data, reading, limit_per_source, reporter)
    check_vocabulary(loaded.model, pool)
    reporter.note("timing a few batches")
    examples = pool.examples

    def run(batch: Sequence[int]) -> None:
        batch_losses(loaded.model, [examples[i] for i in batch])

    measured = measure_passes(loaded.model, examples, heldout_batches(examples, token_budget), run)
    assert measured is not None  # held-out data without a row was refused
    return Forecast(
        len(examples),
        pool.total_tokens,
        pool.trained_tokens,
        {"held-out loss": checkpoints * measured.seconds},
        measured.memory,
        obtainable_bytes(loaded.model.device),
        0,
        REMEDY,
    )
