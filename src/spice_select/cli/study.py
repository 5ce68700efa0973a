"""`spice-select study`: which choice of rows helps, measured."""

import sys
from pathlib import Path

import click
from rich.console import Console

from spice_select.cli.interruption import going_on
from spice_select.cli.printable import printable

EPILOG = """\b
study.yaml:
  pool: [pool.jsonl]               what is selected from
  heldout: [heldout.jsonl]         rows the loss is measured on, by source; keep them out of the pool
  budget: 10%
  seeds: 5
  recipe: {epochs: 2, batch_size: 8}
  cells:
    random: {method: random}
    spice: {}                                                 what `run` does by default
    spice-unit: {scale: unit, rank: 16}                       any option of run's score and schedule
    random-tokens: {method: random, equal_tokens_to: spice}   as many trained tokens as that cell
  baseline: random
  skip_invalid: true               leave out rows that cannot be used; format and columns as for run
  on_bad_gradient: skip            go on without rows whose loss or gradient is not finite
\b
A cell with a frozen proxy (no update within the pool) picks from gradients that all cells share;
a cell whose proxy trains in between runs the whole selection. Interrupt it at any time: the same
command goes on. Cells and seeds may be added later.
"""


@click.command("study", epilog=EPILOG)
@click.argument("study_file", metavar="STUDY.YAML")
@click.option("--output", required=True, metavar="DIR", help="Where results are kept; an unfinished study goes on.")
@click.option("--pool", multiple=True, metavar="POOL", help="Select from this instead of the YAML's pool. Repeatable.")
@click.option("--heldout", multiple=True, metavar="DATA", help="Held-out rows instead of the YAML's. Repeatable.")
@click.option("--seeds", type=click.IntRange(min=1), help="Number of seeds instead of the YAML's.")
def study_command(
    study_file: str, output: str, pool: tuple[str, ...], heldout: tuple[str, ...], seeds: int | None
) -> None:
    """Select, fine-tune and evaluate for every cell and seed of STUDY.YAML; one table and two figures come out."""
    from spice_select.cli.advice import of_study
    from spice_select.cli.progress import progress_on
    from spice_select.study.config import load_study
    from spice_select.study.run import run_study

    study = load_study(Path(study_file))
    given = {"pool": list(pool), "heldout": list(heldout), "seeds": seeds}
    study = study.model_copy(update={key: value for key, value in given.items() if value})
    with going_on(of_study(output)), progress_on(sys.stderr) as progress:
        result = run_study(study, Path(output), progress)
    console = Console(highlight=False)
    console.print(printable(result.markdown), soft_wrap=True, markup=False)
    closing = f"{output}/table.md, loss.svg, tokens.svg; each cell's rows and losses are in {output}/cells/"
    console.print(closing, soft_wrap=True, markup=False)
