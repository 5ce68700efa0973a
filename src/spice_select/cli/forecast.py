"""What `--dry-run` prints."""

from typing import TYPE_CHECKING

import click

from spice_select.distributed.launch import is_main_process

if TYPE_CHECKING:
    from spice_select.costs.forecast import Forecast


def print_forecast(forecast: "Forecast") -> None:
    """What a command would take; once, however many processes ask."""
    if is_main_process():
        for line in forecast.lines():
            click.echo(line)
