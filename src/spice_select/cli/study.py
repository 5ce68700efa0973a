"""`spice-select study`: methods compared by the models fine-tuned on the rows they choose."""

import sys
from pathlib import Path

import click
from rich.console import Console

from spice_select.cli.printable import printable

EPILOG = """\b
study.yaml:
  pool: [pool.jsonl]
  heldout: [heldout.jsonl]         rows to measure the loss on, by source; keep them out of the pool
  budget: 10%
  seeds: 5
  recipe: {epochs: 2, batch_size: 8}
  cells:
    random: {method: random}
    spice: {}                                                 the defaults of `run`
    spice-unit: {scale: unit, rank: 16}                       any option of the score and schedule of `run`
    random-tokens: {method: random, equal_tokens_to: spice}   as many trained tokens as that cell
  baseline: random
  skip_invalid: true               leave out unusable rows; format and columns as for `run`
  on_bad_gradient: skip            leave out rows whose loss or gradient is not finite

Cells with a frozen proxy (no update within the pool) share one computation of the gradients; a cell whose proxy is
updated makes a whole run. You can interrupt a study at any time: the same command continues it. You may add cells and
seeds later; a cell whose options have changed is computed again.
"""


@click.command("study", epilog=EPILOG)
@click.argument("study_file", metavar="STUDY.YAML")
@click.option(
    "--output", required=True, metavar="DIR", help="Directory of the results; an unfinished study is continued."
)
@click.option("--pool", multiple=True, metavar="POOL", help="Pool instead of the YAML's. Repeatable.")
@click.option("--heldout", multiple=True, metavar="DATA", help="Held-out rows instead of the YAML's. Repeatable.")
@click.option("--seeds", type=click.IntRange(min=1), help="Number of seeds instead of the YAML's.")
def study_command(
    study_file: str, output: str, pool: tuple[str, ...], heldout: tuple[str, ...], seeds: int | None
) -> None:
    """Select, fine-tune and evaluate for every cell and seed of STUDY.YAML; write one table and two figures."""
    from spice_select.cli.progress import progress_on
    from spice_select.study.config import load_study
    from spice_select.study.run import run_study

    study = load_study(Path(study_file))
    given = {"pool": list(pool), "heldout": list(heldout), "seeds": seeds}
    study = study.model_copy(update={key: value for key, value in given.items() if value})
    with progress_on(sys.stderr) as progress:
        table = run_study(study, Path(output), progress)
    console = Console(highlight=False)
    closing = f"{output}/table.md, loss.svg, tokens.svg; rows are in {output}/cells/, losses in {output}/tuned/"
    for text in (printable(table), closing):
        console.print(text, soft_wrap=True, markup=False)
