"""`spice-select finetune`: from chosen rows to a LoRA checkpoint."""

import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from spice_select.cli.options import config_options, dry_run_option, given_options, sectioned
from spice_select.distributed.launch import is_main_process
from spice_select.recipe import Recipe, resolve_recipe

if TYPE_CHECKING:
    from spice_select.training.finetune import FinetuneResult

EPILOG = """\b
Examples:
  spice-select finetune chosen --output tuned          on the rows and with the model of a run
  spice-select finetune chosen --model ./qwen3-0.6b --output tuned
  spice-select finetune pool.jsonl --model ./qwen3-0.6b --output tuned-on-everything
  torchrun --nproc-per-node 4 -m spice_select finetune chosen --output tuned
"""

SECTIONS = {
    "The model": ("model", "revision", "trust_remote_code"),
    "The recipe": tuple(Recipe.model_fields),
    "Reading": ("format", "columns", "chat_template", "skip_invalid"),
    "Machine": ("rows_at_once", "device", "dtype"),
}


@click.command("finetune", cls=sectioned(SECTIONS), epilog=EPILOG)
@click.argument("data", nargs=-1, required=True, metavar="DIR|POOL...")
@click.option("--output", required=True, metavar="CKPT", help="Directory of the checkpoint, written at the end.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier checkpoint in CKPT once the new one is complete.")
@click.option(
    "--model",
    metavar="TARGET",
    help="Hub id or local directory of the causal LM to train.  [the model of DIR's run, or the embedded one]",
)
@config_options(*Recipe.model_fields, schema=Recipe)
@config_options("revision", "trust_remote_code", "format", "columns", "chat_template")
@click.option("--skip-invalid", is_flag=True, help="Leave out unusable rows instead of stopping.")
@click.option(
    "--rows-at-once",
    type=int,
    metavar="INT",
    help="Rows that a process computes at once; fewer need less memory, and the result is the same.  [4]",
)
@click.option("--device", metavar="TEXT", help="auto, cpu, cuda, mps.  [auto]")
@click.option(
    "--dtype",
    metavar="auto|float32|bfloat16",
    help="Precision of the frozen weights and of matrix products; auto: bfloat16 on a GPU that supports it, else "
    "float32.  [auto]",
)
@dry_run_option
def finetune_command(data: tuple[str, ...], output: str, overwrite: bool, dry_run: bool, **values: Any) -> None:
    """Fine-tune a model with LoRA on the rows of a run (DIR) or of any POOL, with TRL.

    DIR is a directory that `run` or `pick` wrote; the run's model and length limit are the defaults of --model and
    --max-length. A POOL is a file (.jsonl, .json, .csv, .parquet; .gz too), a directory saved by datasets, or a hub
    dataset id. The loss covers the same tokens as in the selection: the assistant's text and the token that ends each
    of its turns. Needs the extra: pip install 'spice-select[train]'
    """
    given = given_options(values)
    recipe = resolve_recipe({name: given.pop(name) for name in Recipe.model_fields if name in given}, "command line")

    # Imported here so that --help and mistakes answer at once.
    from spice_select.api.forecast import forecast_finetune
    from spice_select.cli.progress import progress_on
    from spice_select.training.finetune import finetune

    given |= {"recipe": recipe}
    with progress_on(sys.stderr) as progress:
        if dry_run:
            lines = forecast_finetune([*data], progress=progress, **given).lines()
        else:
            existing = "overwrite" if overwrite else "refuse"
            result = finetune([*data], output=output, existing=existing, progress=progress, **given)
            lines = _lines(result, recipe)
    if is_main_process():
        click.echo("\n".join(lines))


def _lines(result: "FinetuneResult", recipe: Recipe) -> list[str]:
    figures = {
        "rows": f"{result.rows:,}",
        "trained tokens": f"{result.trained_tokens:,} in one pass",
        "epochs": f"{recipe.epochs:g}",
        "steps": f"{result.steps:,}, each of up to {recipe.batch_size:,} rows",
        "loss": f"{result.losses[0]:.4f} at the first step, {result.losses[-1]:.4f} at the last",
        "time": str(timedelta(seconds=round(result.seconds))),
        "checkpoint": str(result.output),
    }
    lines = [f"{label:<18}{value}" for label, value in figures.items()]
    return [*lines, "", f"Evaluate it on held-out rows:  spice-select evaluate {result.output} --data HELDOUT"]
