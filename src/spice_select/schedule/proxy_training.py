"""The proxy's training: a warm-up on random rows before the first pool, an update on the picks between cycles."""

from collections.abc import Mapping, Sequence

from spice_select.config import RunConfig
from spice_select.gradients.memory import explain_out_of_memory
from spice_select.information.ranks import ALONE, Ranks
from spice_select.pool.examples import Example
from spice_select.progress import Progress
from spice_select.proxy.update import ProxyOptimizer
from spice_select.schedule.bad_rows import stop_or_report_step
from spice_select.schedule.pools import update_order, warm_up_rows

TRAINING_REMEDY = "Lower --gradient-memory, in float32 also --batch-tokens, and add --resume; or use a smaller --model."
"""What helps when a run's forward and backward passes exceed the memory."""


def warm_up(
    optimizer: ProxyOptimizer, examples: Sequence[Example], config: RunConfig, progress: Progress, ranks: Ranks = ALONE
) -> None:
    """Train the proxy on seeded random rows before its first pool, so that LoRA's B leaves zero."""
    rows = warm_up_rows(len(examples), config.warmup_steps * config.update_batch_size, config.seed)
    train(optimizer, [examples[i] for i in rows], config, "warm-up", progress, ranks)


def update(
    optimizer: ProxyOptimizer,
    examples: Sequence[Example],
    picks: list[int],
    cycle: int,
    config: RunConfig,
    progress: Progress,
    ranks: Ranks,
) -> None:
    """Train the proxy on the `picks` of the cycle before `cycle`, in seeded order."""
    rows = [examples[i] for i in update_order(picks, config.seed, cycle)]
    train(optimizer, rows, config, f"update {cycle}", progress, ranks)


def train(
    optimizer: ProxyOptimizer,
    rows: Sequence[Example],
    config: RunConfig,
    label: str,
    progress: Progress,
    ranks: Ranks = ALONE,
    *,
    quietly: bool = False,
) -> None:
    """One pass over `rows` in the order given; `label` is what messages call it, `quietly` without the usual one."""
    if not rows:
        return

    def on_bad(bad: Mapping[int, str]) -> None:
        stop_or_report_step(rows, bad, label, config, progress)

    with explain_out_of_memory(TRAINING_REMEDY, "training the proxy model"):
        losses = optimizer.train_on(rows, config.update_batch_size, ranks, on_bad)
    if quietly:
        return
    outcome = f", loss {losses[0]:.3f} -> {losses[-1]:.3f}" if losses else ": no step was possible"
    progress.note(f"{label}: proxy trained on {len(rows)} rows{outcome}")
