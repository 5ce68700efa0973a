"""The page of a report: one HTML file that needs no network and runs nothing but its own script.

Contract: whatever stands in a row stays text. The template escapes all that it is given; row data go as JSON without
any character that HTML could read; the content security policy allows the one style sheet and the one script by their
hashes, and no request. The same report gives the same page.
"""

import base64
import dataclasses
import hashlib
import json
import re
from functools import cache
from importlib.resources import files
from typing import Any, cast

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from spice_select.report.comparison import Comparison
from spice_select.report.content import Report, RowStory
from spice_select.report.decay import inline_decays
from spice_select.report.figures import inline_svg

_ASSETS = files("spice_select.report") / "assets"
_EXCERPT = 140

# No reader sees these; a parser of HTML drops or changes them.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# What could end a script, what is a line end to some readers, and what changes the order of the text around it.
_NOT_IN_JSON = re.compile("[<>&\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]")


def page(report: Report) -> str:
    """Write the report as HTML."""
    style, script = _asset("page.css"), _asset("page.js")
    template = _environment().get_template("page.html.jinja")
    return template.render(
        report=report,
        figures={name: Markup(text) for name, text in inline_svg(report).items()},  # noqa: S704  svg.py wrote them
        in_page={row.index: row for row in report.rows},
        policy=_policy(style, script),
        style=Markup(style),  # noqa: S704  the package's own
        script=Markup(script),  # noqa: S704
        rows=Markup(rows_json(report)),  # noqa: S704  without <, > and &
    )


def comparison_page(comparison: Comparison) -> str:
    """Write a comparison as HTML, without any script."""
    style, figure = _asset("page.css"), inline_decays(comparison)
    return (
        _environment()
        .get_template("comparison.html.jinja")
        .render(
            comparison=comparison,
            figure=None if figure is None else Markup(figure),  # noqa: S704  svg.py wrote it
            policy=_policy(style, ""),
            style=Markup(style),  # noqa: S704
        )
    )


def rows_json(report: Report) -> str:
    """The rows as JSON that holds no character with a meaning in HTML; halves of surrogate pairs are replaced."""
    text = json.dumps([dataclasses.asdict(row) for row in report.rows], ensure_ascii=False, allow_nan=False)
    whole = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
    return _NOT_IN_JSON.sub(lambda found: f"\\u{ord(found.group()):04x}", whole)


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        loader=FunctionLoader(_asset),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    cast(dict[str, Any], environment.filters).update(
        count=_count, number=_number, share=_share, ratio=_ratio, excerpt=_excerpt
    )
    return environment


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _printable(value: object) -> object:
    """Text without control characters; markup is ours and stays as it is."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value)
    return value


def _count(value: float) -> str:
    return f"{value:,}"


def _number(value: float, digits: int = 3) -> str:
    """Some digits for a reader, with a real minus sign."""
    size = abs(value)
    if size >= 1000:
        text = f"{value:,.0f}"
    elif 0 < size < 0.001:
        text = f"{value:.1e}"
    else:
        text = f"{value:.{digits}g}"
    return text.replace("-", "\N{MINUS SIGN}")


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "\N{EN DASH}"


def _ratio(part: float, whole: float) -> str:
    return f"{part / whole:.2f}\N{MULTIPLICATION SIGN}" if whole else "\N{EN DASH}"


def _excerpt(row: RowStory) -> str:
    """The beginning of a row's answer, or of its prompt where it has none, in one line."""
    text = " ".join((row.response.strip() or row.prompt)[: 2 * _EXCERPT].split())
    return text if len(text) <= _EXCERPT else f"{text[: _EXCERPT - 1]}…"
