"""`spice-select study`: methods compared by the models fine-tuned on the rows they choose."""

import sys
from pathlib import Path

import click
from rich.console import Console

from spice_select.cli.printable import printable
from spice_select.errors import ConfigError
from spice_select.study.presets import PRESETS, preset_text

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
    spice-unit: {scale: unit, directions: 16}                 any option of the score and schedule of `run`
    random-tokens: {method: random, equal_tokens_to: spice}   as many trained tokens as that cell
    balanced: {method: random, balance: source}
    full: {full: true}                                        all rows, for as many epochs
  baseline: random
  equal_tokens: true               adds a cell random-as-<cell> for every cell
  learning_rates: [2.0e-4, 1.0e-3] the recipe's is the better one for the baseline at seed 0
  skip_invalid: true               leave out unusable rows; format and columns as for `run`
  on_bad_gradient: skip            leave out rows whose loss or gradient is not finite

With targets, add:
  targets:                         name -> files; one target of several files mixes them
    maths: [target_maths.jsonl]
    mixed: [target_talk.jsonl, target_maths.jsonl]
  target_rows: 16                  rows of each target that a seed draws, in the files' order
  dtype: bfloat16                  of the frozen weights; far slower on a CPU without AMX or AVX512-BF16
  against: [of-its-kind]           further cells that the table over all targets compares with
  and cells such as:
    for-target: {target: true}                                chosen once for each target, among all rows
    four-rows: {target: true, target_rows: 4, target_rule: information}
    of-its-kind: {method: random, of_target_sources: true}    random rows of the target's sources: the ceiling

The methods of the paper's comparison: spice-select study --preset paper --pool POOL --heldout DATA --output DIR

Cells with a frozen proxy (no update within the pool) share one computation of the gradients; a cell whose proxy is
updated makes a whole run. You can interrupt a study at any time: the same command continues it. You may run it several
times at once, each on a core of its own (taskset -c 0 ...): the processes share the work. You may add cells, targets
and seeds later; a cell whose options have changed is computed again.
"""


def _targets(_: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, list[str]]:
    """Name -> files, from NAME=FILE."""
    found: dict[str, list[str]] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise click.BadParameter(f"'{text}' is not NAME=FILE", param=option)
        found.setdefault(name, []).append(file)
    return found


def _print_preset(context: click.Context, _: click.Parameter, name: str | None) -> None:
    if name is not None:
        click.echo(preset_text(name), nl=False)
        context.exit()


@click.command("study", epilog=EPILOG)
@click.argument("study_file", metavar="[STUDY.YAML]", required=False)
@click.option("--preset", type=click.Choice(PRESETS), help="A study that comes with the program instead of STUDY.YAML.")
@click.option(
    "--print-preset",
    type=click.Choice(PRESETS),
    is_eager=True,
    expose_value=False,
    callback=_print_preset,
    help="Print the YAML of a preset, to start from, and stop.",
)
@click.option(
    "--output", required=True, metavar="DIR", help="Directory of the results; an unfinished study is continued."
)
@click.option("--pool", multiple=True, metavar="POOL", help="Pool instead of the YAML's. Repeatable.")
@click.option("--heldout", multiple=True, metavar="DATA", help="Held-out rows instead of the YAML's. Repeatable.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME=FILE",
    callback=_targets,
    help="Target instead of the YAML's. Repeatable; of one NAME, the files are mixed.",
)
@click.option("--model", help="Model instead of the YAML's.")
@click.option("--seeds", type=click.IntRange(min=1), help="Number of seeds instead of the YAML's.")
def study_command(
    study_file: str | None,
    preset: str | None,
    output: str,
    pool: tuple[str, ...],
    heldout: tuple[str, ...],
    targets: dict[str, list[str]],
    model: str | None,
    seeds: int | None,
) -> None:
    """Select, fine-tune and evaluate for every cell, seed and target of STUDY.YAML; write tables and figures."""
    if (study_file is None) == (preset is None):
        raise ConfigError("name either a STUDY.YAML or a --preset; --print-preset paper prints one to start from.")
    from spice_select.cli.progress import progress_on
    from spice_select.study.config import load_preset, load_study
    from spice_select.study.run import run_study

    values = {"pool": list(pool), "heldout": list(heldout), "targets": targets, "model": model, "seeds": seeds}
    given = {key: value for key, value in values.items() if value}
    study = load_preset(preset, given) if preset else load_study(Path(study_file or ""), given)
    with progress_on(sys.stderr) as progress:
        table = run_study(study, Path(output), progress)
    console = Console(highlight=False)
    closing = f"{output}/table.md, with figures beside it; rows are in {output}/cells/, losses in {output}/tuned/"
    for text in (printable(table), closing):
        console.print(text, soft_wrap=True, markup=False)
