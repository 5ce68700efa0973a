"""The command line: parse, call the API, print. See `spice-select --help`."""

import os
import sys

import click

from spice_select.cli.interruption import Stopped, StoppedError, orderly_signals
from spice_select.cli.printable import printable
from spice_select.distributed.launch import process_count, process_rank
from spice_select.errors import SpiceSelectError

ONCE_MORE = "Give the same command again."
"""What is said of a command that keeps nothing on its way, or had not begun."""

EPILOG = "Start with:  spice-select inspect POOL   and then   spice-select run POOL --output DIR"


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spice-select")
def app() -> None:
    """Choose the part of an instruction pool that is worth fine-tuning on."""
    from spice_select.hub import bound_waiting

    bound_waiting()


def main() -> None:
    """Run the command line; a user's mistake ends in one to three lines and exit code 2, a signal in its own code."""
    with orderly_signals():
        try:
            _load_commands()
            app.main(standalone_mode=False, prog_name="spice-select")
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
        except StoppedError as error:
            _stop(error.format_message(), error.stop.exit_code)
        except Stopped as stop:
            _stop(StoppedError(stop, ONCE_MORE).format_message(), stop.exit_code)
        except click.Abort:
            _stop("interrupted.", 130)
        except click.ClickException as error:
            _stop(error.format_message(), 2)
        except SpiceSelectError as error:
            _stop(str(error), 2)
        except MemoryError:
            _stop("out of memory. Take fewer rows at a time, or a machine with more; what was done is kept.", 1)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _stop(f"{where}{error.strerror or error}; mend that and give the command again (run: with --resume).", 1)


def _load_commands() -> None:
    # TRL reports its use to the hub unless told not to; read when huggingface_hub is first imported.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from spice_select.cli.compare import compare_command
    from spice_select.cli.evaluate import evaluate_command
    from spice_select.cli.finetune import finetune_command
    from spice_select.cli.gradients import check_command, gradients_command
    from spice_select.cli.inspect import inspect_command
    from spice_select.cli.pick import pick_command
    from spice_select.cli.report import audit_command, report_command
    from spice_select.cli.run import run_command
    from spice_select.cli.study import study_command

    for command in (
        run_command, inspect_command, gradients_command, pick_command, check_command, finetune_command,
        evaluate_command, study_command, report_command, audit_command,
        compare_command,
    ):  # fmt: skip
        app.add_command(command)


def _stop(message: str, code: int) -> None:
    who = f" (process {process_rank()})" if process_count() > 1 else ""
    click.echo(printable(f"spice-select{who}: {message}"), err=True)
    sys.exit(code)
