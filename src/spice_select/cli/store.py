"""`spice-select gradients`, `pick`, `check`: a store of gradients or states, choices from it, whether it is whole."""

import sys
from typing import Any

import click

from spice_select.cli.options import (
    COMMON,
    SECTIONS,
    Sections,
    config_options,
    dry_run_option,
    given_options,
    sectioned,
)
from spice_select.cli.printable import printable
from spice_select.config import resolve
from spice_select.constants import help_text
from spice_select.distributed.launch import is_main_process
from spice_select.option_values import FROM_STORE

GRADIENTS: Sections = {
    "The gradients": ("features", "dim", "seed", "proxy_of"),
    "The proxy model": SECTIONS["The proxy model"],
    "Reading": SECTIONS["Reading"],
    "Machine": ("batch_tokens",),
}
GRADIENTS_EPILOG = """\b
Examples:
  spice-select gradients pool.jsonl --output store
  torchrun --nproc-per-node 8 -m spice_select gradients pool.jsonl --output store
  spice-select pick store --budget 10% --output chosen
"""
PICK: Sections = {
    "What to choose": ("budget", "method", "constants", "preset", "quota", "given", "exclude"),
    "For what": SECTIONS["For what"],
    "The score": SECTIONS["The score"],
    "Machine": ("seed", "device"),
    "Files": SECTIONS["Files"],
}
PICK_EPILOG = """\b
Examples:
  spice-select pick store --budget 10% --output chosen
  spice-select pick store --budget 2Mtok --output chosen           2 million trained tokens
  spice-select pick store --quota gsm8k=20% --quota chat=..30% --output chosen
\b
What to add to rows that you train on already:
  spice-select gradients mine.jsonl --proxy-of store --output mine
  spice-select pick store --given mine --budget 1000 --output added
\b
What makes the model good at the task of task.jsonl:
  spice-select gradients task.jsonl --proxy-of store --output target
  spice-select pick store --target target --budget 5% --output chosen
"""


@click.command("gradients", cls=sectioned(GRADIENTS, COMMON), epilog=GRADIENTS_EPILOG)
@click.argument("pools", nargs=-1, metavar="POOL...")
@config_options(*(name for names in GRADIENTS.values() for name in names if name != "proxy_of"))
@click.option(
    "--proxy-of",
    metavar="STORE",
    help="Use the proxy of this store, and its options where none are given, so that `pick` accepts one store as "
    "--given or --target of the other. A target of a store of preconditioned gradients needs --features gradients.",
)
@dry_run_option
@click.option(
    "--output", metavar="STORE", required=True, help="Directory of the store; an unfinished store is completed."
)
def gradients_command(pools: tuple[str, ...], proxy_of: str | None, dry_run: bool, output: str, **values: Any) -> None:
    """Compute the gradient of every row, projected to --dim dimensions, into a store from which `pick` chooses.

    With --features states it computes the hidden state of every row instead. The target of preconditioned gradients is
    a store of plain ones (--features gradients --proxy-of STORE); rows for --given are preconditioned too.

    A gradient takes 2 bytes per dimension: 8 kB by default. After an interruption, the same command continues. Several
    processes can fill one store at once, also on several hosts that share the directory. With --skip-invalid, the
    store's pool.json lists the rows that were left out.
    """
    config = resolve({"candidates": "all"}, given_options(values), "command line")

    # Imported here so that --help and mistakes answer at once.
    from spice_select.api.forecast import forecast_gradients
    from spice_select.api.gradients import compute_gradients
    from spice_select.cli.progress import progress_on

    with progress_on(sys.stderr) as progress:
        if dry_run:
            lines = forecast_gradients([*pools], config, proxy_of=proxy_of, progress=progress).lines()
        else:
            store = compute_gradients([*pools], config, output=output, proxy_of=proxy_of, progress=progress)
            size = store.rows * store.dim * 2 / 1e6
            among = f"{proxy_of} --target {output}" if proxy_of else output
            lines = [
                f"{store.rows:,} {store.noun}s of {store.dim:,} dimensions ({size:,.1f} MB) in {output}",
                f"next: spice-select pick {among} --budget 10% --output DIR",
            ]
    if is_main_process():
        click.echo("\n".join(lines))


@click.command("pick", cls=sectioned(PICK, COMMON), epilog=PICK_EPILOG)
@click.argument("store", metavar="STORE")
@click.option(
    "--budget", metavar="TEXT",
    help="Rows to keep: '10%', a fraction such as 0.1, or a count such as 500; or trained tokens ('20000tok', "
    "'2Mtok'), an upper limit (spice and fisher compare scores per token). Excluded rows do not count.  [10%]",
)  # fmt: skip
@click.option(
    "--method", metavar="|".join(FROM_STORE),
    help="spice; fisher (penalty 0); with --target the baselines less (rows most along it), rds (its rows take turns), "
    "tsds (optimal transport).  [spice]",
)  # fmt: skip
@click.option(
    "--constant", "constants", multiple=True, metavar="NAME=VALUE", help=f"{help_text(FROM_STORE)} Repeatable."
)
@click.option(
    "--preset", metavar="paper", help="paper: the literal formula (scale none, directions all, absolute alpha 1)."
)
@config_options(
    "quota", "given", "exclude", *SECTIONS["For what"], *SECTIONS["The score"], "device", *SECTIONS["Files"]
)
@click.option(
    "--seed", metavar="INT", help="Seed of all draws: by tsds, and of subsets to compare with.  [the store's]"
)
@click.option("--output", metavar="DIR", help="Directory of the results.  [STORE's name with -selected]")
@click.option("--overwrite", is_flag=True, help="Replace an earlier choice in DIR.")
def pick_command(store: str, output: str | None, overwrite: bool, **values: Any) -> None:
    """Choose among all rows of STORE at once, exactly, by information with a conflict penalty (SPICE).

    Other methods, and choices for a target, are options.

    STORE was made by `gradients`; neither the pool's files nor the model are needed. DIR will hold the same files as
    the directory of a run.
    """
    options = given_options(values)

    from spice_select.api.pick import pick
    from spice_select.cli.progress import progress_on
    from spice_select.cli.table import print_summary

    directory = output or f"{store.rstrip('/')}-selected"
    with progress_on(sys.stderr) as progress:
        existing = "overwrite" if overwrite else "refuse"
        result = pick(store, output=directory, existing=existing, progress=progress, **options)
    if is_main_process():
        print_summary(result, directory)


@click.command("check")
@click.argument("store", metavar="STORE")
def check_command(store: str) -> None:
    """Compare every file of a gradient store with its checksum.

    Damaged and missing files are named. To repair the store, delete the damaged files and run `gradients` again with
    the same options: it computes only what is missing.

    Exit codes: 0, the store is whole; 1, files are missing or damaged; 2, there is no finished store.
    """
    from spice_select.store.layout import AGAIN
    from spice_select.store.reading import GradientStore, check_store

    if problems := check_store(store):
        click.echo(printable("\n".join([*problems, AGAIN])), err=True)
        sys.exit(1)
    opened = GradientStore.open(store)
    click.echo(f"{opened.rows:,} {opened.noun}s of {opened.dim:,} dimensions: every checksum matches")
