"""Command-line options made from the schemas: a field of `RunConfig` or `Recipe` is an option of the same name."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, get_args

import click
from pydantic import BaseModel

from spice_select.amounts import KEEP, OTHERS
from spice_select.config import RunConfig
from spice_select.errors import ConfigError
from spice_select.file_options import FileOptions

Command = TypeVar("Command", bound=Callable[..., Any])
Sections = Mapping[str, tuple[str, ...]]
"""Names of options by the heading under which the help lists them."""

SECTIONS: Sections = {
    "What to choose": ("budget", "method", "balance", "constants", "judge", "features", "preset"),
    "For what": ("target", "target_rule", "target_share", "stop_coverage", "keep_target_rows"),
    "The score": ("penalty", "stop_ratio", "scale", "directions", "fisher_alpha", "fisher_alpha_mode"),
    "The schedule": ("candidates", "update_every", "seed"),
    "One choice among all rows (--candidates all)": ("quota", "given", "exclude", "dim"),
    "The proxy model": (
        "model", "revision", "trust_remote_code", "dtype", "device", "lora_rank", "lora_alpha", "layers",
        "warmup_steps", "learning_rate", "lr_warmup_steps", "update_batch_size", "on_bad_gradient",
    ),
    "Reading": ("format", "columns", "chat_template", "skip_invalid", "max_length"),
    "Machine": ("batch_tokens", "gradient_memory"),
    "Files": ("eval_share", "parquet"),
}  # fmt: skip
COMMON = frozenset({
    "budget", "method", "features", "target", "quota", "exclude", "candidates", "seed", "model", "format", "columns",
    "skip_invalid", "max_length", "eval_share", "output", "config_file", "resume", "overwrite", "dry_run", "proxy_of",
})  # fmt: skip
"""Options that `--help` lists of a command that has many; `--help-all` lists all."""
_ALL = "spice_select.all_options"
REPEATED = {
    "format": ("--format", "[FILE=]NAME", " Of one input: pool.json=alpaca."),
    "columns": ("--column", "[FILE:]FIELD=COLUMN", " Of one input: pool.json:prompt=question."),
    "quota": ("--quota", "SOURCE=SHARE", ""),
    "constants": ("--constant", "NAME=VALUE", ""),
    "judge": ("--judge", "MODEL", ""),
    "target": ("--target", "FILE[=SHARE]", ""),
}
"""Fields whose option may be given several times: that option, how it is written, what else its help says."""


class SectionedCommand(click.Command):
    """A command whose help lists its options under the headings of `sections`, the rest under Other.

    Where some are `common`, `--help` lists these alone, and there is a `--help-all`.
    """

    sections: Sections = SECTIONS
    common: frozenset[str] = frozenset()

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own parameters, `--help-all` and `--help`."""
        *own, last = super().get_params(ctx)
        return [*own, _HELP_ALL, last] if self.common else [*own, last]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        records = {param.name: record for param in options if (record := param.get_help_record(ctx))}
        if self.common and _ALL not in ctx.meta:
            shown = self.common | {option.name for option in options[-2:]}  # the two ways to ask for help
            records = {name: record for name, record in records.items() if name in shown}
        listed = {name for names in self.sections.values() for name in names}
        rest = tuple(name for name in records if name not in listed)
        for heading, names in {**self.sections, "Other": rest}.items():
            if lines := [records[name] for name in names if name in records]:
                with formatter.section(heading):
                    formatter.write_dl(lines)


def _print_all_help(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        ctx.meta[_ALL] = True
        click.echo(ctx.get_help())
        ctx.exit()


_HELP_ALL = click.Option(
    ["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=_print_all_help,
    help="List every option, also those of the score, the schedule and the proxy.",
)  # fmt: skip
dry_run_option = click.option("--dry-run", is_flag=True, help="Estimate time, memory and disk space, and stop.")


def sectioned(sections: Sections, common: frozenset[str] = frozenset()) -> type[SectionedCommand]:
    """A command with these sections and common options."""
    return type("Sectioned", (SectionedCommand,), {"sections": sections, "common": common})


def config_options(*names: str, schema: type[BaseModel] = RunConfig) -> Callable[[Command], Command]:
    """Add the options of the named fields to a command; absent ones arrive as None or ()."""

    def add(command: Command) -> Command:
        for name in reversed(names):
            command = _option(name, schema)(command)
        return command

    return add


def given_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what the user wrote; quotas and constants become mappings, `--format` and `--column` as in `RunConfig`.

    Raises `ConfigError` if one of these cannot be read, or says the same thing twice.
    """
    given = {key: value for key, value in values.items() if value is not None and value != ()}
    if "quota" in given:
        quotas = [f"{OTHERS}={KEEP}" if text == "proportional" else text for text in given["quota"]]
        given["quota"] = _mapping("--quota", "SOURCE=SHARE, e.g. gsm8k=20%, or proportional", quotas)
    if "constants" in given:
        given["constants"] = _mapping("--constant", "NAME=VALUE, e.g. sigma=0.5", given["constants"])
    return given | _reading(given.pop("format", ()), given.pop("columns", ()))


def _mapping(option: str, form: str, texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        if not (name and value):
            raise ConfigError(f"{option} {text}: write it as {form}.")
        if name in found:
            ends = " (a quota with two ends: 10%..30%)" * (option == "--quota")
            raise ConfigError(f"{option}: a name was given twice; give each once{ends}.")
        found[name] = value
    return found


def _reading(formats: Sequence[str], columns: Sequence[str]) -> dict[str, Any]:
    """`format`, `columns`, and `per_file`, which holds what names an input."""
    found: dict[str, dict[str, Any]] = {"": {}}
    for text in formats:
        file, equals, name = text.rpartition("=")
        if not name or bool(equals) != bool(file):
            raise ConfigError(f"--format {text}: write it as NAME or FILE=NAME, e.g. pool.json=alpaca.")
        if "format" in found.setdefault(file, {}):
            raise ConfigError(f"--format {text}: was given twice{f' for {file}' * bool(file)}; give it once.")
        found[file]["format"] = name
    for text in columns:
        place, equals, column = text.partition("=")
        file, colon, field = place.rpartition(":")
        if not (field and equals and column) or bool(colon) != bool(file):
            raise ConfigError(
                f"--column {text}: write it as FIELD=COLUMN or FILE:FIELD=COLUMN, e.g. prompt=question or "
                "pool.json:prompt=question."
            )
        mapped = found.setdefault(file, {}).setdefault("columns", {})
        if field in mapped:
            raise ConfigError(f"--column {text}: a column was given twice for '{field}'; give it once.")
        mapped[field] = column
    general = found.pop("")
    return general | ({"per_file": {file: FileOptions(**own) for file, own in found.items()}} if found else {})


def _option(name: str, schema: type[BaseModel]) -> Callable[[Command], Command]:
    field = schema.model_fields[name]
    text, flag = field.description or "", f"--{name.replace('_', '-')}"
    if name in REPEATED:
        flag, metavar, more = REPEATED[name]
        return click.option(flag, name, multiple=True, metavar=metavar, help=f"{text}{more} Repeatable.")
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
