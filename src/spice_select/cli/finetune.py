"""`spice-select finetune`: from chosen rows to a LoRA checkpoint."""

import sys
from typing import TYPE_CHECKING, Any

import click

from spice_select.cli.options import Command, SectionedCommand, given_options
from spice_select.recipe import Recipe, resolve_recipe

if TYPE_CHECKING:
    from spice_select.training.finetune import FinetuneResult

EPILOG = """\b
Examples:
  spice-select finetune chosen --output tuned                     chosen: what run wrote; trains the model it names
  spice-select finetune chosen --model ./qwen3-0.6b --output tuned
  spice-select finetune pool.jsonl --model ./qwen3-0.6b --output tuned-on-everything
  spice-select finetune chosen --output tuned --rows-at-once 1    less memory, the same result
  torchrun --nproc-per-node 4 -m spice_select finetune chosen --output tuned
"""

SECTIONS: dict[str, tuple[str, ...]] = {
    "The model": ("model", "revision", "trust_remote_code"),
    "The recipe": tuple(Recipe.model_fields),
    "Reading": ("format", "columns", "skip_invalid"),
    "Machine": ("rows_at_once", "device", "dtype"),
}


class FinetuneCommand(SectionedCommand):
    """The command with its own headings."""

    sections = SECTIONS


def recipe_options(command: Command) -> Command:
    """Add an option for each field of `Recipe`; absent ones arrive as None."""
    for name, field in reversed(Recipe.model_fields.items()):
        metavar = "INT" if field.annotation is int else "NUMBER"
        text = f"{field.description}  [{field.default:g}]"
        command = click.option(f"--{name.replace('_', '-')}", name, metavar=metavar, help=text)(command)
    return command


@click.command("finetune", cls=FinetuneCommand, epilog=EPILOG)
@click.argument("data", nargs=-1, required=True, metavar="DIR|POOL...")
@click.option("--output", required=True, metavar="CKPT", help="Where the checkpoint goes; it appears at the end.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier checkpoint in CKPT, once the new one is ready.")
@click.option(
    "--model",
    metavar="TARGET",
    help="Hub id or local directory of the causal LM to train.  [the model of DIR's run, or the embedded one]",
)
@click.option("--revision", metavar="TEXT", help="Hub revision: branch, tag or commit.")
@click.option("--trust-remote-code", is_flag=True, help="Allow the model repository's own Python code to run.")
@recipe_options
@click.option("--format", metavar="TEXT", help="Row format of a POOL.  [detected for each file]")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="FIELD=COLUMN",
    help="Column of a POOL that holds a field of the format. Repeatable.",
)
@click.option("--skip-invalid", is_flag=True, help="Leave unusable rows out instead of stopping.")
@click.option(
    "--rows-at-once",
    type=int,
    metavar="INT",
    help="Rows that a process computes at once; fewer need less memory, with the same result.  [4]",
)
@click.option("--device", metavar="TEXT", help="auto, cpu, cuda, mps.  [auto]")
@click.option(
    "--dtype", metavar="float32|bfloat16", help="Precision of the frozen weights and of matrix products.  [float32]"
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Report the time, memory and disk that the training needs, from a few steps, and stop.",
)
def finetune_command(data: tuple[str, ...], output: str, overwrite: bool, dry_run: bool, **values: Any) -> None:
    """Fine-tune a model with LoRA on the rows that run chose (DIR) or on any POOL, with TRL.

    DIR is a directory that run wrote; --model and --max-length are then those of the run unless given. A POOL is what
    run takes: a file (.jsonl, .json, .csv, .parquet; .gz too), a directory saved by datasets, or a hub dataset id. The
    loss is on the same tokens as in the selection: the assistant's text and the token that ends each of its turns.
    Needs the extra: pip install 'spice-select[train]'
    """
    given = given_options(values)
    recipe = resolve_recipe({name: given.pop(name) for name in Recipe.model_fields if name in given}, "command line")

    # Imported here so that --help and mistakes answer at once.
    from spice_select.api.forecast import forecast_finetune
    from spice_select.cli.progress import progress_on
    from spice_select.distributed.launch import is_main_process
    from spice_select.training.finetune import finetune

    if dry_run:
        with progress_on(sys.stderr) as progress:
            found = forecast_finetune(list(data), recipe=recipe, progress=progress, **given)
        if is_main_process():
            click.echo("\n".join(found.lines()))
        return
    existing = "overwrite" if overwrite else "refuse"
    with progress_on(sys.stderr) as progress:
        result = finetune(list(data), output=output, recipe=recipe, existing=existing, progress=progress, **given)
    if is_main_process():
        _print(result, recipe, output)


def _print(result: "FinetuneResult", recipe: Recipe, output: str) -> None:
    """What was trained, how the loss went, and what to do next."""
    figures = [
        ("rows", f"{result.rows:,}"),
        ("trained tokens", f"{result.trained_tokens:,} in one pass"),
        ("epochs", f"{recipe.epochs:g}"),
        ("steps", f"{result.steps:,}, each of up to {recipe.batch_size:,} rows"),
        ("loss", f"{result.losses[0]:.4f} at the first step, {result.losses[-1]:.4f} at the last"),
        ("time", f"{result.seconds:,.1f} s"),
        ("checkpoint", output),
    ]
    for label, value in figures:
        click.echo(f"{label:<18}{value}")
    click.echo(f"\nMeasure it on held-out rows:  spice-select evaluate {output} --data HELDOUT")
