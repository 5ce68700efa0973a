"""`spice-select evaluate`: the held-out loss of a fine-tuned model, and of the public tasks if asked for."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.console import Console
from rich.text import Text

from spice_select.cli.evaluation_tables import loss_table, task_table, verdict
from spice_select.cli.options import Command, SectionedCommand, given_options
from spice_select.cli.progress import progress_on
from spice_select.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from spice_select.cli.evaluation_report import Report
    from spice_select.evaluation.checkpoint import Checkpoint, LoadedModel
    from spice_select.evaluation.evaluate import Evaluation
    from spice_select.evaluation.tasks.results import TaskResult
    from spice_select.evaluation.tasks.run import PreparedTasks
    from spice_select.pool.types import PoolOptions
    from spice_select.progress import Progress

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
    "The model": ("device", "dtype", "revision", "trust_remote_code", "token_budget"),
    "Reading": ("format", "columns", "skip_invalid", "max_length"),
    "The result": ("output", "overwrite"),
}
NEEDED_BY = {
    "data": (
        "limit_per_source",
        "against",
        "resamples",
        "token_budget",
        "format",
        "columns",
        "skip_invalid",
        "max_length",
    ),
    "tasks": ("task_data", "task_limit", "task_batch", "execute_code"),
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
            (name, f"{task.about} [{' or '.join(task.files)}{''.join(f', {stem}' for stem in task.shot_files)}]")
            for name, task in BENCHMARKS.items()
        ]
        with formatter.section("Names for --tasks [files that --task-data looks for: .jsonl, .json, .csv or .parquet]"):
            formatter.write_dl(rows)


def _number(flag: str, default: int, least: int, text: str) -> Callable[[Command], Command]:
    """An option that takes a whole number from `least` on."""
    kind = click.IntRange(min=least)
    return click.option(flag, default=default, show_default=True, type=kind, metavar="INT", help=text)


@click.command("evaluate", cls=EvaluateCommand, epilog=EPILOG)
@click.argument("checkpoint", metavar="CKPT")
@click.option("--data", multiple=True, metavar="HELDOUT...", help="Held-out rows, in any form that `run` takes.")
@click.option(
    "--limit-per-source", type=click.IntRange(min=1), metavar="N", help="Only the first N rows of each source."
)
@click.option("--against", metavar="CKPT2", help="Also evaluate CKPT2, and say whether CKPT differs on the same rows.")
@_number("--resamples", 2000, 1, "Bootstrap draws behind the 95 % intervals.")
@_number("--seed", 0, 0, "Seeds the draws and the tasks.")
@click.option("--tasks", metavar="NAME,...", help="Public tasks to score CKPT on, e.g. arc_challenge,mmlu.")
@click.option("--task-data", metavar="DIR", help="Directory with the tasks' files; without it, from the hub.")
@click.option("--task-limit", type=click.IntRange(min=1), metavar="N", help="Only the first N items of each task.")
@_number("--task-batch", 8, 1, "Items of a task in one pass.")
@click.option("--execute-code", is_flag=True, help="Let tasks run the programs that CKPT writes, on this machine.")
@click.option("--device", default="auto", show_default=True, metavar="TEXT", help="auto, cpu, cuda, cuda:1, mps.")
@click.option(
    "--dtype", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16"]),
    help="Precision of the weights.",
)  # fmt: skip
@click.option("--revision", metavar="TEXT", help="Revision of CKPT, or of its base, on the hub; not of CKPT2.")
@click.option("--trust-remote-code", is_flag=True, help="Allow the model repository's own Python code to run.")
@_number("--token-budget", 2048, 1, "Padded tokens in one forward pass; changes speed and memory, not the result.")
@click.option("--format", metavar="TEXT", help="Row format; found per file when not given.")
@click.option(
    "--column", "columns", multiple=True, metavar="FIELD=COLUMN",
    help="Field of the format -> column in the file. Repeatable.",
)  # fmt: skip
@click.option("--skip-invalid", is_flag=True, help="Leave rows out that cannot be used, instead of stopping.")
@_number("--max-length", 2048, 8, "Tokens kept of a row; longer ones are cut at the end.")
@click.option(
    "--output", metavar="FILE.json",
    help="Also write everything, every row's loss included, as JSON, after each finished part.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace FILE.json if it exists.")
@click.pass_context
def evaluate_command(
    context: click.Context, checkpoint: str, output: str | None, overwrite: bool, **values: Any
) -> None:
    """Measure how well CKPT predicts responses it was not trained on.

    CKPT is a directory of `finetune`, any other PEFT adapter or model directory, a hub id, or smollm2-135m-instruct.
    A row's loss is the mean negative log-likelihood of its response tokens, in nats: lower is better.  The last line
    is the macro mean, in which every source counts the same.  Intervals are of 95 %, by resampling rows within sources.
    """
    if not values["data"] and not values["tasks"]:
        raise ConfigError("nothing to measure: give held-out rows with --data, or --tasks.")
    _refuse_idle(context)
    columns = given_options({"columns": values["columns"]}).get("columns", {})
    # Imported here so that --help and mistakes answer at once.
    from spice_select.cli.evaluation_report import Report, check_report_path

    report = Report(Path(output) if output else None)
    if report.path:
        check_report_path(report.path, overwrite, values["data"])
    try:
        _measure(checkpoint, values | {"columns": columns}, report)
    finally:
        if report.path and report.begun:
            what = "written to" if report.content["complete"] else "what was measured before is in"
            print(f"{what} {report.path}", file=sys.stderr)  # noqa: T201


def _refuse_idle(context: click.Context) -> None:
    """Raise `ConfigError` for an option that would do nothing."""
    options = {param.name: param for param in context.command.params}
    for needed, names in NEEDED_BY.items():
        for name in () if context.params[needed] else names:
            if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                raise ConfigError(f"{options[name].opts[0]} does nothing without {options[needed].opts[0]}.")


def _found(checkpoint: str, values: dict[str, Any]) -> "tuple[Checkpoint, Checkpoint | None, torch.device]":
    """The checkpoint, the one it is compared with, and where they run; no weights are read."""
    from spice_select.evaluation.checkpoint import find_checkpoint
    from spice_select.proxy.loading import pick_device

    device, trust = pick_device(values["device"]), values["trust_remote_code"]
    first = find_checkpoint(checkpoint, revision=values["revision"], trust_remote_code=trust)
    second = find_checkpoint(values["against"], trust_remote_code=trust) if values["against"] else None
    return first, second, device


def _reading(values: dict[str, Any]) -> "PoolOptions":
    from spice_select.pool.types import PoolOptions

    return PoolOptions(values["format"], values["columns"], values["skip_invalid"], values["max_length"])


def _measure(checkpoint: str, values: dict[str, Any], report: "Report") -> None:
    """Find everything; then measure, print and keep one part after another."""
    first, second, device = _found(checkpoint, values)
    tasks = _prepared_tasks(values) if values["tasks"] else None
    evaluation = _measure_one(first, device, tasks, values, report)
    if evaluation and second:  # the first model is gone by now: two need not fit into memory
        _compare(evaluation, second, device, values, report)
    report.keep(complete=True)


def _prepared_tasks(values: dict[str, Any]) -> "PreparedTasks":
    from spice_select.evaluation.tasks.run import prepare_tasks

    return prepare_tasks(
        list(dict.fromkeys(name.strip() for name in values["tasks"].split(","))),
        data=Path(values["task_data"]) if values["task_data"] else None,
        limit=values["task_limit"],
        execute_code=values["execute_code"],
        seed=values["seed"],
    )


def _measure_one(
    found: "Checkpoint", device: "torch.device", tasks: "PreparedTasks | None", values: dict[str, Any], report: "Report"
) -> "Evaluation | None":
    from spice_select.evaluation.checkpoint import load_weights
    from spice_select.evaluation.evaluate import evaluation_json
    from spice_select.evaluation.tasks.run import run_tasks

    console, evaluation = Console(highlight=False), None
    with progress_on(sys.stderr) as progress:
        progress.note(f"loading {found.name}")
        loaded = load_weights(found, device, values["dtype"])
        scores = run_tasks(loaded.model, loaded.tokenizer, tasks, values["task_batch"]) if tasks else iter(())
        if values["data"]:
            evaluation = _evaluated(loaded, values, progress)
    about = {"checkpoint": loaded.name, "fingerprint": loaded.fingerprint}
    if evaluation:
        console.print(loss_table(evaluation.heldout))
        report.keep(**about, heldout=evaluation_json(evaluation))
    results: list[TaskResult] = []
    try:
        for result in scores:
            results.append(result)
            report.keep(**about, tasks={done.task: asdict(done) for done in results})
    finally:
        if results:
            console.print(task_table(results))
    return evaluation


def _compare(
    first: "Evaluation", found: "Checkpoint", device: "torch.device", values: dict[str, Any], report: "Report"
) -> None:
    from spice_select.evaluation.checkpoint import load_weights
    from spice_select.evaluation.evaluate import difference_json, evaluation_json
    from spice_select.evaluation.heldout import compare

    with progress_on(sys.stderr) as progress:
        progress.note(f"loading {found.name}")
        second = _evaluated(load_weights(found, device, values["dtype"]), values, progress)
    about = {"checkpoint": second.checkpoint, "fingerprint": second.fingerprint, "heldout": evaluation_json(second)}
    report.keep(against=about | {"difference": None})
    difference = compare(first.heldout, second.heldout, values["resamples"], values["seed"])
    report.keep(against=about | {"difference": difference_json(difference)})
    Console(highlight=False).print(Text(verdict(first, second, difference)), soft_wrap=True)


def _evaluated(loaded: "LoadedModel", values: dict[str, Any], progress: "Progress") -> "Evaluation":
    from spice_select.evaluation.evaluate import evaluate_model

    options = {key: values[key] for key in ("limit_per_source", "token_budget", "resamples", "seed")}
    return evaluate_model(loaded, values["data"], _reading(values), **options, progress=progress)
