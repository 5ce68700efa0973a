"""`spice-select run`: from pools to a directory that trainers take as it is."""

import re
import sys
from pathlib import Path
from typing import Any

import click

from spice_select.cli.options import COMMON, SECTIONS, config_options, dry_run_option, given_options, sectioned
from spice_select.config import resolve
from spice_select.config_file import RunFile, dump_yaml, load_yaml
from spice_select.distributed.launch import is_main_process
from spice_select.errors import ConfigError

EPILOG = """\b
Examples:
  spice-select run pool.jsonl --output chosen
  spice-select run math.jsonl.gz chat.parquet --budget 5000 --model ./qwen --output chosen
  spice-select run pool.jsonl --target task.jsonl --output chosen  rows that help with the task of task.jsonl
  spice-select run pool.jsonl --stop-ratio 0.5 --output chosen     SPICE+: the budget is an upper limit
  spice-select run pool.jsonl --method random --output baseline
  spice-select run --config chosen/run.yaml --output again         repeat a run
"""


@click.command("run", cls=sectioned(SECTIONS, COMMON), epilog=EPILOG)
@click.argument("pools", nargs=-1, metavar="POOL...")
@config_options(*(name for names in SECTIONS.values() for name in names))
@click.option("--output", metavar="DIR", help="Directory of the results.  [POOL's name with -selected]")
@click.option(
    "--config", "config_file", metavar="FILE", help="YAML with any of these options; the command line takes precedence."
)
@click.option("--resume", is_flag=True, help="Continue an interrupted run; it chooses the same subset.")
@click.option("--overwrite", is_flag=True, help="Delete an earlier run in DIR before the new run starts.")
@dry_run_option
@click.option("--print-config", is_flag=True, help="Print the resolved YAML and stop.")
def run_command(
    pools: tuple[str, ...],
    output: str | None,
    config_file: str | None,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
    print_config: bool,
    **values: Any,
) -> None:
    """Choose the rows of POOL... worth fine-tuning on, by gradient information with a conflict penalty (SPICE).

    A POOL is a file (.jsonl, .json, .csv, .parquet, .arrow; text also .gz, .bz2, .xz, .zst), a quoted pattern such as
    'data/*.parquet', a folder of data files or saved by datasets, FOLDER:CONFIG:SPLIT, a hub dataset (owner/name,
    owner/name:SPLIT or owner/name:CONFIG:SPLIT), an address (https://, hf://, s3://), or - for standard input.
    A small proxy model makes the choice; the embedded default, where installed, needs no download.
    """
    if resume and overwrite:
        raise ConfigError("--resume continues a run and --overwrite replaces it; give only one of them.")
    file = load_yaml(Path(config_file)) if config_file else RunFile([], None, {})
    given = given_options(values)
    config = resolve(file.options, given, config_file or "command line")
    if config.trust_remote_code and not given.get("trust_remote_code"):
        raise ConfigError(
            f"{config_file}: allows the model's own Python code to run, which only the command line can do.\n"
            "Give --trust-remote-code if you have read that code, otherwise --no-trust-remote-code."
        )
    inputs = list(pools) or file.pools
    if not inputs:
        raise ConfigError("no POOL was given; name at least one file, directory or dataset id.")
    directory = output or file.output or _default_output(inputs)
    if print_config:
        click.echo(dump_yaml(config, inputs, directory), nl=False)
        return

    # Imported here so that --help, --print-config and mistakes answer at once.
    from spice_select.api.forecast import forecast
    from spice_select.api.select import select
    from spice_select.cli.progress import progress_on
    from spice_select.cli.table import print_summary

    existing = "resume" if resume else "overwrite" if overwrite else "refuse"
    with progress_on(sys.stderr) as progress:
        expected = forecast(inputs, config, progress=progress) if dry_run else None
        result = None if dry_run else select(inputs, config, output=directory, existing=existing, progress=progress)
    if expected and is_main_process():
        click.echo("\n".join(expected.lines()))
    if result and is_main_process():
        print_summary(result, directory)


def _default_output(inputs: list[str]) -> str:
    first = inputs[0] if Path(inputs[0]).exists() else inputs[0].split(":")[0]
    name = re.sub(r"[^\w -]+", "-", Path(first).name.split(".")[0]).strip("-") or "pool"
    return f"{name}-selected" if len(inputs) == 1 else f"{name}-and-{len(inputs) - 1}-more-selected"
