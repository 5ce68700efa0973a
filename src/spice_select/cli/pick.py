"""`spice-select pick`: choose among all rows of a gradient store."""

import sys
from collections.abc import Mapping
from typing import Any, ClassVar

import click

from spice_select.cli.options import SectionedCommand, config_options, given_options
from spice_select.distributed.launch import is_main_process

SECTIONS: dict[str, tuple[str, ...]] = {
    "What to choose": ("budget", "method", "preset", "quota", "given", "exclude"),
    "The score": ("penalty", "stop_ratio", "scale", "rank", "alpha", "alpha_mode"),
    "Machine": ("device", "parquet"),
}

EPILOG = """\b
Examples:
  spice-select pick store --budget 10% --output chosen
  spice-select pick store --budget 2Mtok --output chosen                 trained tokens; gain is counted per token
  spice-select pick store --quota gsm8k=20% --quota chat=..30% --output chosen
  spice-select gradients mine.jsonl --proxy-of store --output mine       and then: what should be added to mine?
  spice-select pick store --given mine --budget 1000 --output added
"""


class PickCommand(SectionedCommand):
    """The help of `pick`, by section."""

    sections: ClassVar[Mapping[str, tuple[str, ...]]] = SECTIONS


@click.command("pick", cls=PickCommand, epilog=EPILOG)
@click.argument("store", metavar="STORE")
@config_options(*(name for names in SECTIONS.values() for name in names))
@click.option("--output", metavar="DIR", help="Where the results go.  [STORE's name with -selected]")
@click.option("--overwrite", is_flag=True, help="Replace an earlier choice in DIR.")
def pick_command(store: str, output: str | None, overwrite: bool, **values: Any) -> None:
    """Choose among all rows of STORE at once, exactly, by gradient information with a conflict penalty (SPICE).

    STORE was made by `gradients`; neither the pool's files nor the model are needed any more. DIR holds the same files
    as the directory of a run.
    """
    options = given_options(values)

    # Imported here so that --help and mistakes answer at once.
    from spice_select.api.pick import pick
    from spice_select.cli.progress import progress_on
    from spice_select.cli.table import print_summary

    directory = output or f"{store.rstrip('/')}-selected"
    existing = "overwrite" if overwrite else "refuse"
    with progress_on(sys.stderr) as progress:
        result = pick(store, output=directory, existing=existing, progress=progress, **options)
    if is_main_process():
        print_summary(result, directory)
