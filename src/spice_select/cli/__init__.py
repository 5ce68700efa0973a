"""The command line: parse, call the API, print. See `spice-select --help`."""

# click defines the signatures.
# ruff: noqa: ARG002

import importlib
import os
import signal
import sys

import click

from spice_select.cli.interruption import CONTINUE, Interrupted, signals_interrupt
from spice_select.cli.printable import printable
from spice_select.distributed.launch import process_count, process_rank
from spice_select.errors import REPEAT, SpiceSelectError

COMMANDS = {
    "run": ("run", "Choose the rows of a pool that are worth fine-tuning on."),
    "inspect": ("inspect", "Show how the model reads a pool, and which rows are unusable."),
    "gradients": ("store", "Compute the gradients of a pool once, into a store."),
    "pick": ("store", "Choose rows from a store of gradients."),
    "check": ("store", "Compare every file of a store with its checksum."),
    "push": ("push", "Upload the chosen rows to the hub as a dataset."),
    "finetune": ("finetune", "Fine-tune a model on the chosen rows."),
    "evaluate": ("evaluate", "Evaluate a model on held-out rows or public tasks."),
    "study": ("study", "Compare methods by fine-tuning on the rows that each chooses."),
    "report": ("report", "Explain a choice: how good it is, and why each row is in it."),
    "audit": ("report", "List rows to review before training."),
    "compare": ("compare", "Compare the choices of several runs side by side."),
}
"""Each command's module and its line in the overview. A module is imported when its command is used."""

EPILOG = "\b\nStart with:  spice-select inspect POOL\nand then:    spice-select run POOL --output DIR"


class LazyGroup(click.Group):
    """Imports only the command that is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order in which they are used."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"spice_select.cli.{COMMANDS[cmd_name][0]}")
        return getattr(module, f"{cmd_name}_command")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spice-select")
def app() -> None:
    """Choose the part of an instruction pool that is worth fine-tuning on."""
    from spice_select.hub import bound_waiting

    bound_waiting()


def main() -> None:
    """Run the command line. A user's mistake ends in one to three lines and exit code 2, a signal in its own code."""
    # TRL reports its use to the hub unless this is set before huggingface_hub is imported.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        with signals_interrupt():
            app.main(standalone_mode=False, prog_name="spice-select")
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
    except Interrupted as interruption:
        number = signal.Signals(interruption.args[0])
        how = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
        _fail(f"{how}. {CONTINUE}", 128 + number)  # the code by which shells report the signal
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except SpiceSelectError as error:
        _fail(str(error), 2)
    except MemoryError:
        _fail("out of memory. Use fewer rows at a time, or a machine with more memory.", 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}. Correct this, then {REPEAT}.", 1)


def _fail(message: str, code: int) -> None:
    who = f" (process {process_rank()})" if process_count() > 1 else ""
    click.echo(printable(f"spice-select{who}: {message}"), err=True)
    sys.exit(code)
