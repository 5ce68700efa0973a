"""`spice-select evaluate`: the held-out loss of a fine-tuned model, and its scores on public tasks."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from spice_select.cli.options import Command, SectionedCommand, config_options, given_options
from spice_select.config import resolve
from spice_select.errors import ConfigError, OutputError

EPILOG = """\b
Examples:
  spice-select evaluate tuned --data heldout.jsonl
  spice-select evaluate tuned --data heldout/*.jsonl --output tuned.json
  spice-select evaluate tuned --against smollm2-135m-instruct --data heldout.jsonl
  spice-select evaluate tuned --data heldout.jsonl --limit-per-source 50     a quick look
  spice-select evaluate tuned --tasks arc_challenge,mmlu
"""
SECTIONS = {
    "What to measure": ("data", "limit_per_source", "against", "resamples", "seed"),
    "Tasks": ("tasks", "task_data", "task_limit", "task_batch", "execute_code"),
    "The model": ("device", "dtype", "revision", "trust_remote_code", "batch_tokens"),
    "Reading": ("format", "columns", "skip_invalid", "max_length"),
    "The result": ("output", "overwrite"),
}
NEEDED_BY = {
    "data": ("limit_per_source", "against", "resamples", "batch_tokens", *SECTIONS["Reading"]),
    "tasks": SECTIONS["Tasks"][1:],
    "output": ("overwrite",),
}
"""Options that would do nothing without another."""


class EvaluateCommand(SectionedCommand):
    """Lets --data take several files, as a shell's * gives them; the help names the tasks and their files."""

    sections = SECTIONS

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write `--data a b` as `--data a --data b`."""
        spread: list[str] = []
        taking = False
        for arg in args:
            if taking and not arg.startswith("-") and spread[-1] != "--data":
                spread.append("--data")
            elif arg.startswith("-"):
                taking = arg == "--data"
            spread.append(arg)
        try:
            return super().parse_args(ctx, spread)
        except click.MissingParameter as error:
            if "--data" not in args or not isinstance(error.param, click.Argument):
                raise
            message = "CKPT is missing: put it before --data, which takes every name that follows."
            raise click.UsageError(message, ctx) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, then the tasks."""
        super().format_options(ctx, formatter)
        from spice_select.evaluation.tasks.benchmarks import BENCHMARKS

        rows = [
            (name, f"{task.about} [{' or '.join(task.files)}{task.shot_file and f', {task.shot_file}'}]")
            for name, task in BENCHMARKS.items()
        ]
        with formatter.section("Names for --tasks [files that --task-data looks for: .jsonl, .json, .csv or .parquet]"):
            formatter.write_dl(rows)


def _number(flag: str, default: int | None, least: int, text: str) -> Callable[[Command], Command]:
    kind = click.IntRange(min=least)
    return click.option(flag, default=default, show_default=True, type=kind, metavar="INT", help=text)


@click.command("evaluate", cls=EvaluateCommand, epilog=EPILOG)
@click.argument("checkpoint", metavar="CKPT")
@click.option("--data", multiple=True, metavar="HELDOUT...", help="Held-out rows, in any form that `run` takes.")
@_number("--limit-per-source", None, 1, "Evaluate only this many first rows of each source.")
@click.option("--against", metavar="CKPT2", help="Also evaluate CKPT2, and say whether CKPT differs on the same rows.")
@_number("--resamples", 2000, 1, "Bootstrap resamples for the 95 % intervals.")
@_number("--seed", 0, 0, "Random seed of the resamples and of the tasks.")
@click.option("--tasks", metavar="NAME,...", help="Public tasks to score CKPT on, e.g. arc_challenge,mmlu.")
@click.option("--task-data", metavar="DIR", help="Directory with the tasks' files.  [the hub]")
@_number("--task-limit", None, 1, "Score only this many first items of each task.")
@_number("--task-batch", 8, 1, "Items of a task in one pass.")
@click.option("--execute-code", is_flag=True, help="Let tasks run the programs that CKPT writes, on this machine.")
@click.option("--device", default="auto", show_default=True, metavar="TEXT", help="auto, cpu, cuda, cuda:1, mps.")
@click.option(
    "--dtype", default="auto", show_default=True, type=click.Choice(["auto", "float32", "bfloat16"]),
    help="Precision of the weights; auto: bfloat16 on a GPU that supports it, else float32. Compare models in one.",
)  # fmt: skip
@click.option("--revision", metavar="TEXT", help="Revision of CKPT, or of its base, on the hub; not of CKPT2.")
@_number("--batch-tokens", 2048, 1, "Padded tokens in one forward pass; changes speed and memory, not the result.")
@config_options("trust_remote_code", "format", "columns")
@click.option("--skip-invalid", is_flag=True, help="Leave out rows that cannot be used, instead of stopping.")
@_number("--max-length", 2048, 8, "Tokens kept of a row; longer ones are cut at the end.")
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FILE.json",
    help="Also write everything, every row's loss included, as JSON, after each finished part.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace FILE.json if it exists.")
@click.pass_context
def evaluate_command(
    context: click.Context, checkpoint: str, output: Path | None, overwrite: bool, **values: Any
) -> None:
    """Measure how well CKPT predicts responses it was not trained on.

    CKPT is a directory of `finetune`, any other PEFT adapter or model directory, a hub id, or smollm2-135m-instruct.
    A row's loss is the mean negative log-likelihood of its response tokens, in nats: lower is better.  The last line
    is the macro mean: every source counts the same.  Intervals have a level of 95 %; rows are resampled within sources.
    """
    if not values["data"] and not values["tasks"]:
        raise ConfigError("nothing to measure: give held-out rows with --data, or --tasks.")
    _refuse_idle(context)
    if output:
        _check_output(output, overwrite, values["data"])
    reading = resolve({}, given_options({key: values[key] for key in ("format", "columns")}), "command line")
    # Imported here so that --help and mistakes answer at once.
    from spice_select.cli.evaluation_report import EvaluationRun

    run = EvaluationRun(values | {key: getattr(reading, key) for key in ("format", "columns", "per_file")}, output)
    try:
        run.measure(checkpoint)
    finally:
        if output and run.content["checkpoint"]:
            what = "written to" if run.content["complete"] else "finished parts are in"
            click.echo(f"{what} {output}", err=True)


def _refuse_idle(context: click.Context) -> None:
    options = {param.name: param for param in context.command.params}
    for needed, names in NEEDED_BY.items():
        for name in () if context.params[needed] else names:
            if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                raise ConfigError(f"{options[name].opts[0]} does nothing without {options[needed].opts[0]}.")


def _check_output(path: Path, overwrite: bool, data: tuple[str, ...]) -> None:
    """Refuse what cannot or should not be written, before hours are spent. Raises `OutputError`."""
    if path.is_dir():
        raise OutputError(f"{path}: is a directory; --output takes a file, e.g. {path / 'evaluation.json'}.")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path.parent}: is missing or cannot be written to; make it, or choose another --output.")
    if path.resolve() in {Path(name).resolve() for name in data}:
        raise OutputError(f"{path}: is an input and would be replaced; choose another --output.")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already; --overwrite replaces it, or choose another --output.")
