"""Command-line options made from the schemas: a field of `RunConfig` or `Recipe` is an option of the same name."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args

import click
from pydantic import BaseModel

from spice_select.config import RunConfig
from spice_select.errors import ConfigError

Command = TypeVar("Command", bound=Callable[..., Any])
Sections = Mapping[str, tuple[str, ...]]
"""Names of options by the heading under which the help lists them."""

SECTIONS: Sections = {
    "What to choose": ("budget", "method", "preset"),
    "For what": ("target", "target_rule", "target_share", "stop_coverage", "keep_target_rows"),
    "The score": ("penalty", "stop_ratio", "scale", "rank", "alpha", "alpha_mode"),
    "The schedule": ("pool_size", "update_every", "seed"),
    "One choice among all rows (--pool-size all)": ("quota", "given", "exclude", "dim"),
    "The proxy model": (
        "model", "revision", "trust_remote_code", "dtype", "device", "lora_rank", "lora_alpha", "layers",
        "warmup_steps", "learning_rate", "lr_warmup_steps", "update_batch_size", "on_bad_gradient",
    ),
    "Reading": ("format", "columns", "skip_invalid", "max_length"),
    "Machine": ("token_budget", "gradient_memory", "parquet"),
}  # fmt: skip
PAIRS = {"columns": ("--column", "FIELD=COLUMN", "prompt=question"), "quota": ("--quota", "SOURCE=SHARE", "gsm8k=20%")}
"""Fields that are mappings: their option, how it is written, an example."""


class SectionedCommand(click.Command):
    """A command whose help lists its options under the headings of `sections`, the rest under Other."""

    sections: Sections = SECTIONS

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        records = {param.name: record for param in options if (record := param.get_help_record(ctx))}
        listed = {name for names in self.sections.values() for name in names}
        rest = tuple(name for name in records if name not in listed)
        for heading, names in {**self.sections, "Other": rest}.items():
            if shown := [records[name] for name in names if name in records]:
                with formatter.section(heading):
                    formatter.write_dl(shown)


dry_run_option = click.option("--dry-run", is_flag=True, help="Estimate time, memory and disk space, and stop.")


def sectioned(sections: Sections) -> type[SectionedCommand]:
    """A command with these sections."""
    return type("Sectioned", (SectionedCommand,), {"sections": sections})


def config_options(*names: str, schema: type[BaseModel] = RunConfig) -> Callable[[Command], Command]:
    """Add the options of the named fields to a command; absent ones arrive as None or ()."""

    def add(command: Command) -> Command:
        for name in reversed(names):
            command = _option(name, schema)(command)
        return command

    return add


def given_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what the user wrote; `--column FIELD=COLUMN` and `--quota SOURCE=SHARE` become mappings.

    Raises `ConfigError` if one of these has no equals sign, or a name comes twice.
    """
    given = {key: value for key, value in values.items() if value is not None and value != ()}
    for key in PAIRS.keys() & given.keys():
        flag, metavar, example = PAIRS[key]
        pairs = [text.rpartition("=") if key == "quota" else text.partition("=") for text in given[key]]
        for field, equals, value in pairs:
            if not (field and equals and value):
                raise ConfigError(f"{flag} {field}{equals}{value}: write it as {metavar}, e.g. {example}.")
        given[key] = {field: value for field, _, value in pairs}
        if len(given[key]) < len(pairs):
            raise ConfigError(f"{flag}: a name was given twice; give each once (a quota with two ends: 10%..30%).")
    return given


def _option(name: str, schema: type[BaseModel]) -> Callable[[Command], Command]:
    field = schema.model_fields[name]
    text, flag = field.description or "", f"--{name.replace('_', '-')}"
    if name in PAIRS:
        flag, metavar, _ = PAIRS[name]
        return click.option(flag, name, multiple=True, metavar=metavar, help=f"{text} Repeatable.")
    if field.annotation == list[str]:
        return click.option(flag, name, multiple=True, metavar="FILE[=SHARE]", help=f"{text} Repeatable.")
    if field.annotation is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)
    default = f"{field.default:g}" if isinstance(field.default, float) else field.default
    shown = "" if default is None else f"  [{default}]"
    return click.option(flag, name, metavar="|".join(_forms(field.annotation)), help=text + shown)


def _forms(annotation: Any) -> list[str]:
    """How values of a type are written: INT and all for `int | Literal["all"]`."""
    names = [name for kind, name in ((int, "INT"), (float, "NUMBER"), (str, "TEXT")) if annotation is kind]
    literal = [annotation] if isinstance(annotation, str) else []
    return [*names, *literal, *(form for part in get_args(annotation) for form in _forms(part))]
