"""`spice-select gradients` and `check`: the expensive step once, into a store, and whether a store is whole."""

import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import click

from spice_select.cli.options import SectionedCommand, config_options, given_options
from spice_select.cli.printable import printable
from spice_select.config import resolve
from spice_select.distributed.launch import is_main_process

SECTIONS: dict[str, tuple[str, ...]] = {
    "The gradients": ("dim", "seed", "proxy_of"),
    "The proxy model": (
        "model", "revision", "trust_remote_code", "dtype", "device", "lora_rank", "lora_alpha", "layers",
        "warmup_steps", "learning_rate", "lr_warmup_steps", "update_batch_size", "on_bad_gradient",
    ),
    "Reading": ("format", "columns", "skip_invalid", "max_length"),
    "Machine": ("token_budget",),
}  # fmt: skip

EPILOG = """\b
Examples:
  spice-select gradients pool.jsonl --output store
  spice-select gradients pool.jsonl --output store          again: continues after an interruption
  torchrun --nproc-per-node 8 -m spice_select gradients pool.jsonl --output store
  spice-select pick store --budget 10% --output chosen      as often as you like
"""


class GradientsCommand(SectionedCommand):
    """The help of `gradients`, by section."""

    sections: ClassVar[Mapping[str, tuple[str, ...]]] = SECTIONS


@click.command("gradients", cls=GradientsCommand, epilog=EPILOG)
@click.argument("pools", nargs=-1, metavar="POOL...")
@config_options(*(name for names in SECTIONS.values() for name in names if name != "proxy_of"))
@click.option(
    "--proxy-of", metavar="STORE", help="Use that store's warmed-up proxy, so that pick can take it as --given."
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Report the time, memory and disk that the store needs, from a few timed batches, and stop.",
)
@click.option(
    "--output", metavar="STORE", required=True, help="Directory of the store; an unfinished store is completed."
)
def gradients_command(pools: tuple[str, ...], proxy_of: str | None, dry_run: bool, output: str, **values: Any) -> None:
    """Compute every row's gradient, projected to --dim dimensions, into a store from which `pick` chooses.

    The store takes 2 bytes per dimension: 8 kB per row at the default. After an interruption, the same command
    continues. Several processes can work on one store at once, also on several hosts that share the directory. With
    --skip-invalid, the store's pool.json lists the rows that were left out.
    """
    config = resolve({"pool_size": "all"}, given_options(values), "command line")

    # Imported here so that --help and mistakes answer at once.
    from spice_select.api.forecast import forecast_gradients
    from spice_select.api.gradients import compute_gradients
    from spice_select.cli.progress import progress_on

    if dry_run:
        with progress_on(sys.stderr) as progress:
            found = forecast_gradients(list(pools), config, proxy_of=proxy_of, progress=progress)
        if is_main_process():
            click.echo("\n".join(found.lines()))
        return
    with progress_on(sys.stderr) as progress:
        store = compute_gradients(list(pools), config, output=output, proxy_of=proxy_of, progress=progress)
    if not is_main_process():
        return
    size = store.rows * store.dim * 2 / 1e6
    click.echo(f"{store.rows:,} gradients of {store.dim:,} dimensions ({size:,.1f} MB) in {output}")
    click.echo(f"next: spice-select pick {output} --budget 10% --output DIR")


@click.command("check")
@click.argument("store", metavar="STORE")
def check_command(store: str) -> None:
    """Compare every file of a gradient store with its checksum.

    Exit code 0: the store is whole. 1: files are missing or damaged; each is named. 2: there is no finished store.
    """
    from spice_select.store.layout import AGAIN
    from spice_select.store.reading import GradientStore, check_store

    problems = check_store(store)
    for problem in problems:
        click.echo(printable(problem), err=True)
    if problems:
        click.echo(AGAIN, err=True)
        sys.exit(1)
    opened = GradientStore.open(store)
    click.echo(f"{opened.rows:,} gradients of {opened.dim:,} dimensions: every checksum matches")
