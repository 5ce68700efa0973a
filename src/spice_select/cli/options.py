"""Command-line options made from the one schema: a field of `RunConfig` is an option of the same name."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeVar, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from spice_select.config import RunConfig
from spice_select.errors import ConfigError

Command = TypeVar("Command", bound=Callable[..., Any])

SECTIONS: dict[str, tuple[str, ...]] = {
    "What to choose": ("budget", "method", "preset", "quota", "given", "exclude"),
    "The score": ("penalty", "stop_ratio", "scale", "rank", "alpha", "alpha_mode"),
    "The schedule": ("pool_size", "update_every", "dim", "seed"),
    "The proxy model": (
        "model",
        "revision",
        "trust_remote_code",
        "dtype",
        "device",
        "lora_rank",
        "lora_alpha",
        "layers",
        "warmup_steps",
        "learning_rate",
        "lr_warmup_steps",
        "update_batch_size",
        "on_bad_gradient",
    ),
    "Reading": ("format", "columns", "skip_invalid", "max_length"),
    "Machine": ("token_budget", "gradient_memory", "parquet"),
}
FLAGS = {"trust_remote_code", "skip_invalid", "parquet"}
PAIRS = {
    "columns": ("--column", "FIELD=COLUMN", "prompt=question"),
    "quota": ("--quota", "SOURCE=SHARE", "gsm8k=20%"),
}
"""Fields that are mappings: their option, how it is written, an example."""


class SectionedCommand(click.Command):
    """A command whose help lists its options under the headings of `sections`; a subclass sets its own."""

    sections: ClassVar[Mapping[str, tuple[str, ...]]] = SECTIONS

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections, then the options that belong to none."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        records = {param.name: param.get_help_record(ctx) for param in options}
        for heading, names in self.sections.items():
            self._section(formatter, heading, (records.pop(name, None) for name in names))
        self._section(formatter, "Other", records.values())

    @staticmethod
    def _section(formatter: click.HelpFormatter, heading: str, records: Iterable[tuple[str, str] | None]) -> None:
        shown = [record for record in records if record]
        if shown:
            with formatter.section(heading):
                formatter.write_dl(shown)


def config_options(*names: str) -> Callable[[Command], Command]:
    """Add the options of the named fields to a command; absent ones arrive as None."""

    def add(command: Command) -> Command:
        for name in reversed(names):
            command = _option(name, RunConfig.model_fields[name])(command)
        return command

    return add


def given_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what the user wrote; `--column FIELD=COLUMN` and `--quota SOURCE=SHARE` become mappings.

    Raises:
        ConfigError: one of these without an equals sign.

    """
    given = {key: value for key, value in values.items() if value is not None and value != ()}
    for key, (flag, metavar, example) in PAIRS.items():
        if key in given:
            pairs = [text.rpartition("=") if key == "quota" else text.partition("=") for text in given[key]]
            for field, equals, value in pairs:
                if not (field and equals and value):
                    raise ConfigError(f"{flag} {field}{equals}{value}: write it as {metavar}, e.g. {example}.")
            given[key] = {field: value for field, _, value in pairs}
            if len(given[key]) < len(pairs):
                raise ConfigError(f"{flag}: a name was given twice; write each once, a quota of two ends as 10%..30%.")
    return given


def _option(name: str, field: FieldInfo) -> Callable[[Command], Command]:
    text = field.description or ""
    if name in PAIRS:
        flag, metavar, _ = PAIRS[name]
        return click.option(flag, name, multiple=True, metavar=metavar, help=f"{text} Repeatable.")
    flag = f"--{name.replace('_', '-')}"
    if name in FLAGS:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)
    default = "off" if field.default is None and name == "stop_ratio" else field.default
    shown = "" if default is None else f"  [{default}]"
    return click.option(flag, name, metavar=_metavar(field), help=text + shown)


def _metavar(field: FieldInfo) -> str:
    if get_origin(field.annotation) is not None and all(isinstance(a, str) for a in get_args(field.annotation)):
        return "|".join(get_args(field.annotation))
    parts = {field.annotation, *get_args(field.annotation)}
    return "INT" if int in parts else "NUMBER" if float in parts else "TEXT"
