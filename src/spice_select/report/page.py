"""The pages of a report and of a comparison: one HTML file each, which needs no network and runs no script but its own.

Contract: whatever a row contains stays text. The templates escape all values; the content security policy allows one
style sheet and one script by their hashes, and images only as data. The same report gives the same page.
"""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, cast

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from spice_select.report import precision
from spice_select.report.audit import named_rows
from spice_select.report.content import Comparison, RowStory, SelectionReport, TargetRow
from spice_select.report.drawing import page_images, short_name
from spice_select.report.figures import comparison_plots, report_plots
from spice_select.report.numbers import nats, number, ratio, share
from spice_select.report.verdict import verdict_of

_ASSETS = files("spice_select.report") / "assets"
_EXCERPT = 100
_RELATED = 0.2  # least cosine, or negative cosine, of a pick that is named beside a row

# Not visible to any reader; HTML parsers drop or change them.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def page(report: SelectionReport) -> str:
    """Write the report as HTML."""
    return _rendered(
        "report.html.jinja",
        _asset("page.js"),
        report=report,
        verdict=verdict_of(report),
        precision=precision,
        spare=[] if report.audit is None else named_rows(report.audit, ["duplicates"]),
        figures=page_images(report_plots(report)),
        in_page={row.line.index: row for row in report.rows},
    )


def comparison_page(comparison: Comparison) -> str:
    """Write a comparison as HTML, without any script."""
    figures = page_images(comparison_plots(comparison))
    return _rendered("comparison.html.jinja", "", comparison=comparison, figures=figures)


def _rendered(template: str, script: str, **values: object) -> str:
    style = _asset("page.css")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    own = {"style": Markup(style), "script": Markup(script)}  # noqa: S704  the package's own
    return _environment().get_template(template).render(policy=policy, **own, **values)


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
    filters = {"count": "{:,}".format, "number": number, "nats": nats, "share": share, "ratio": ratio}
    filters |= {
        "excerpt": _excerpt,
        "sort_values": _sort_values,
        "json": _json,
        "short": short_name,
        "commands": _commands,
    }
    cast(dict[str, Any], environment.filters).update(filters)
    cast(dict[str, Any], environment.tests)["far"] = _far
    return environment


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _printable(value: object) -> object:
    """Text without control characters; markup comes from the package and stays as it is."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value)
    return value


def _excerpt(row: RowStory | TargetRow) -> str:
    """The beginning of a row's answer, or of its prompt where it has none, in one line."""
    text = " ".join((row.response.strip() or row.prompt)[: 2 * _EXCERPT].split())
    return text if len(text) <= _EXCERPT else f"{text[: _EXCERPT - 1]}…"


def _commands(advice: str) -> Markup:
    """An advice, whose commands in backquotes become code."""
    parts = [escape(part) for part in advice.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def _json(ids: Sequence[str]) -> str:
    """Ids for the script, exactly as they are: JSON escapes what a page cannot hold."""
    return json.dumps(ids)


def _far(cosine: float) -> bool:
    return abs(cosine) >= _RELATED


def _sort_values(row: RowStory) -> str:
    """JSON of what rows are sorted by, in the order of the template's options."""
    values = (row.rank, row.score, row.gain, row.conflict, row.line.trained_tokens)
    return json.dumps([value if value is None else float(f"{value:.6g}") for value in values])
