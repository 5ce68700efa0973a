"""`spice-select evaluate`: the held-out loss of a fine-tuned model, and of the public tasks if asked for."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spice_select.cli.options import Command, SectionedCommand, given_options
from spice_select.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from spice_select.evaluation.bootstrap import Interval, PairedDifference
    from spice_select.evaluation.evaluate import Evaluation
    from spice_select.evaluation.heldout import HeldoutLoss
    from spice_select.evaluation.tasks import TaskResult

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


class EvaluateCommand(SectionedCommand):
    """Lets --data take several files, as a shell's * gives them."""

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
        return super().parse_args(ctx, spread)


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
@click.option("--task-data", metavar="DIR", help="Directory with the tasks' own files.")
@click.option("--task-limit", type=click.IntRange(min=1), metavar="N", help="Only N items of each task.")
@_number("--task-batch", 8, 1, "Items of a task in one pass.")
@click.option("--execute-code", is_flag=True, help="Let tasks run the programs that CKPT writes, on this machine.")
@click.option("--device", default="auto", show_default=True, metavar="TEXT", help="auto, cpu, cuda, cuda:1, mps.")
@click.option(
    "--dtype", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16"]),
    help="Precision of the weights.",
)  # fmt: skip
@click.option("--revision", metavar="TEXT", help="Hub revision of CKPT, or of an adapter's base.")
@click.option("--trust-remote-code", is_flag=True, help="Allow the model repository's own Python code to run.")
@_number("--token-budget", 2048, 1, "Padded tokens in one forward pass; changes speed and memory, not the result.")
@click.option("--format", metavar="TEXT", help="Row format; found per file when not given.")
@click.option(
    "--column", "columns", multiple=True, metavar="FIELD=COLUMN",
    help="Field of the format -> column in the file. Repeatable.",
)  # fmt: skip
@click.option("--skip-invalid", is_flag=True, help="Leave rows out that cannot be used, instead of stopping.")
@_number("--max-length", 2048, 8, "Tokens kept of a row; longer ones are cut at the end.")
@click.option("--output", metavar="FILE.json", help="Also write everything, every row's loss included, as JSON.")
@click.option("--overwrite", is_flag=True, help="Replace FILE.json if it exists.")
def evaluate_command(checkpoint: str, output: str | None, overwrite: bool, **values: Any) -> None:
    """Measure how well CKPT predicts responses it was not trained on.

    CKPT is a directory of `finetune`, any other PEFT adapter or model directory, a hub id, or smollm2-135m-instruct.
    A row's loss is the mean negative log-likelihood of its response tokens, in nats: lower is better.  The last line
    is the macro mean, in which every source counts the same.  Intervals are of 95 %, by resampling rows within sources.
    """
    if not values["data"] and not values["tasks"]:
        raise ConfigError("nothing to measure: give held-out rows with --data, or --tasks.")
    if values["against"] and not values["data"]:
        raise ConfigError("--against compares held-out losses; give the rows with --data.")
    columns = given_options({"columns": values["columns"]}).get("columns", {})
    if output:
        _check_output(Path(output), overwrite, values["data"])

    report = _measure(checkpoint, columns, values)
    if output:
        from spice_select.output.atomic import write_text

        write_text(Path(output), json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
        print(f"written to {output}", file=sys.stderr)  # noqa: T201


def _measure(checkpoint: str, columns: dict[str, str], values: dict[str, Any]) -> dict[str, Any]:
    """Evaluate, print, and return the report."""
    # Imported here so that --help and mistakes answer at once.
    from spice_select.cli.progress import progress_on
    from spice_select.evaluation.checkpoint import load_checkpoint
    from spice_select.evaluation.evaluate import FORMAT, VERSION, difference_json, evaluate_model, evaluation_json
    from spice_select.evaluation.heldout import compare
    from spice_select.pool.records import PoolOptions
    from spice_select.proxy.loading import pick_device

    reading = PoolOptions(values["format"], columns, values["skip_invalid"], values["max_length"])
    names = _task_names(values)
    device = pick_device(values["device"])
    options = {key: values[key] for key in ("limit_per_source", "token_budget", "resamples", "seed")}
    loading = {key: values[key] for key in ("revision", "trust_remote_code")}
    report: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    console = Console(highlight=False)
    evaluation = None
    with progress_on(sys.stderr) as progress:
        progress.note(f"loading {checkpoint}")
        loaded = load_checkpoint(checkpoint, device, values["dtype"], **loading)
        report |= {"checkpoint": loaded.name, "fingerprint": loaded.fingerprint}
        if values["data"]:
            evaluation = evaluate_model(loaded, values["data"], reading, **options, progress=progress)
    if evaluation:
        console.print(_loss_table(evaluation.heldout))
    report["heldout"] = evaluation_json(evaluation) if evaluation else None
    results = _run_tasks(loaded.model, loaded.tokenizer, names, values) if names else {}
    if results:
        console.print(_task_table(results))
    report["tasks"] = {name: asdict(result) for name, result in results.items()}
    report["against"] = None
    if evaluation and values["against"]:
        del loaded  # two models need not fit into memory
        with progress_on(sys.stderr) as progress:
            progress.note(f"loading {values['against']}")
            loaded = load_checkpoint(values["against"], device, values["dtype"], **loading)
            other = evaluate_model(loaded, values["data"], reading, **options, progress=progress)
        difference = compare(evaluation.heldout, other.heldout, values["resamples"], values["seed"])
        console.print(Text(_verdict(evaluation, other, difference)), soft_wrap=True)
        report["against"] = {
            "checkpoint": other.checkpoint,
            "fingerprint": other.fingerprint,
            "heldout": evaluation_json(other),
            "difference": difference_json(difference),
        }
    return report


def _check_output(path: Path, overwrite: bool, data: tuple[str, ...]) -> None:
    """Refuse what cannot or should not be written, before hours are spent.

    Raises:
        OutputError: see the messages.

    """
    if path.is_dir():
        raise OutputError(f"{path}: is a directory; --output takes a file, e.g. {path / 'evaluation.json'}.")
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: no such directory; make it, or choose another --output.")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path.parent}: cannot be written to; choose another --output.")
    if path.resolve() in {Path(name).resolve() for name in data}:
        raise OutputError(f"{path}: is an input and would be replaced; choose another --output.")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already; --overwrite replaces it, or choose another --output.")


def _task_names(values: dict[str, Any]) -> list[str]:
    """Names in the order given, each once, after all checks that need no model.

    Raises:
        ConfigError: an unknown task; one that may not run code; lm-eval is not installed.

    """
    if values["tasks"] is None:
        return []
    from spice_select.evaluation.tasks import check_tasks

    names = list(dict.fromkeys(name.strip() for name in values["tasks"].split(",")))
    check_tasks(
        names,
        data=_task_data(values),
        limit=values["task_limit"],
        execute_code=values["execute_code"],
    )
    return names


def _task_data(values: dict[str, Any]) -> Path | None:
    return Path(values["task_data"]) if values["task_data"] else None


def _run_tasks(model: Any, tokenizer: Any, names: list[str], values: dict[str, Any]) -> "dict[str, TaskResult]":
    from spice_select.evaluation.tasks import run_tasks

    return run_tasks(
        model,
        tokenizer,
        names,
        data=_task_data(values),
        limit=values["task_limit"],
        execute_code=values["execute_code"],
        batch_size=values["task_batch"],
        seed=values["seed"],
    )


def _loss_table(heldout: "HeldoutLoss") -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("source")
    for heading in ("rows", "trained tokens", "loss", "95 % interval", "per token"):
        table.add_column(heading, justify="right")
    for s in heldout.sources:
        cells = (f"{s.rows:,}", f"{s.trained_tokens:,}", f"{s.mean:.4f}", _shown(s.interval), f"{s.token_mean:.4f}")
        table.add_row(Text(s.source), *cells)
    rows, tokens = f"{len(heldout.rows):,}", f"{sum(s.trained_tokens for s in heldout.sources):,}"
    table.add_row("all rows", rows, tokens, f"{heldout.mean:.4f}")
    table.add_row("macro", "", "", f"{heldout.macro:.4f}", _shown(heldout.macro_interval), style="bold")
    return table


def _task_table(results: "Mapping[str, TaskResult]") -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("task", "metric"):
        table.add_column(heading)
    for heading in ("items", "value", "standard error"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for r in results.values():
        error = "-" if r.stderr is None else f"{r.stderr:.4f}"
        table.add_row(Text(r.task), Text(r.metric), f"{r.items:,}", f"{r.value:.4f}", error, Text(r.note))
    return table


def _verdict(first: "Evaluation", second: "Evaluation", difference: "PairedDifference") -> str:
    interval = _shown(difference.interval)
    head = (
        f"\nagainst {second.checkpoint}: macro {second.heldout.macro:.4f}, "
        f"difference {difference.macro:+.4f} (95 %: {interval}); the interval "
    )
    if not difference.interval.excludes(0.0):
        return f"{head}includes zero: these rows do not tell the two apart."
    better = first if difference.macro < 0 else second
    return f"{head}excludes zero: {better.checkpoint} predicts these sources better."


def _shown(interval: "Interval") -> str:
    return f"{interval.low:.4f} to {interval.high:.4f}"
