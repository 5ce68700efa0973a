"""The page of a report: offline, its untrusted texts stay texts, and it is the same each time."""

import base64
import dataclasses
import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.report_pages import HOSTILE, bare_report, empty_report, full_report
from spice_select.report import precision
from spice_select.report.content import Findings, RowStory, SelectionReport
from spice_select.report.drawing import page_images, write_figures
from spice_select.report.figures import report_plots
from spice_select.report.page import page

FIGURES = ("gain", "conflict", "information", "coverage", "lengths", "sources")
SHOWN = ("information", "coverage", "sources", "lengths", "gain", "conflict")
"""In the order of the page."""
VOID = {"meta", "link", "input", "br", "img", "hr", "source"}
IMAGE = re.compile(r"data:image/webp;base64,[A-Za-z0-9+/]+=*")
REPORTS = {
    "full": lambda: full_report(sources=20),
    "empty": empty_report,
    "bare": bare_report,
    "plain": lambda: full_report(hostile=False),
}


class Parsed(HTMLParser):
    """A page as html.parser reads it: elements, the text of each raw one, visible text, and whether tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.raw: list[tuple[str, dict[str, str], str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs) -> None:
        attributes = {name: value or "" for name, value in attrs}
        assert len(attributes) == len(attrs)
        self.elements.append((tag, attributes))
        if tag in {"script", "style"}:
            self.raw.append((tag, attributes, ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if self.open and self.open[-1] in {"script", "style"}:
            tag, attributes, content = self.raw.pop()
            self.raw.append((tag, attributes, content + data))
        else:
            self.text += data

    def handle_comment(self, data) -> None:
        raise AssertionError("the page holds no comments")

    def values(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]


@pytest.fixture(scope="module", params=REPORTS)
def made(request) -> tuple[SelectionReport, str, Parsed]:
    report = REPORTS[request.param]()
    text = page(report)
    return report, text, Parsed(text)


def test_nothing_is_fetched(made) -> None:
    """Addresses are places in the page, images as data, or empty data; no host is named."""
    _, text, parsed = made
    for name in ("src", "href", "xlink:href", "action", "formaction", "poster", "srcset", "data", "ping", "background"):
        for value in parsed.values(name):
            assert value.startswith("#") or value == "data:," or (name[:3] == "src" and IMAGE.fullmatch(value))
    outside = re.sub(r"(?s)<script.*?</script>", "", IMAGE.sub("", text))
    assert re.findall(r"https?:|//[a-z]|@import|url\(", outside) == []
    assert not {"iframe", "object", "embed", "base", "form", "frame", "svg"} & {tag for tag, _ in parsed.elements}


def test_the_policy_allows_what_is_there_and_nothing_else(made) -> None:
    """One style and one script, each by the hash of its exact content; no attribute holds style or script."""
    _, _, parsed = made
    metas = [attributes for tag, attributes in parsed.elements if tag == "meta"]
    assert "charset" in metas[0]
    policy = next(m["content"] for m in metas if m.get("http-equiv") == "Content-Security-Policy")
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives == {
        "default-src": "'none'",
        "style-src": f"'{sha256(content(parsed, 'style', {}))}'",
        "script-src": f"'{sha256(content(parsed, 'script', {}))}'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    names = {name for _, attributes in parsed.elements for name in attributes}
    assert not {name for name in names if name == "style" or name.startswith("on")}
    assert parsed.open == []


def test_every_row_is_in_the_page(made) -> None:
    """With its texts, its picks and what it is sorted by; a value that is not known is null."""
    report, _, parsed = made
    values = {int(a["id"][4:]): json.loads(a["data-values"]) for _, a in parsed.elements if "data-values" in a}
    assert list(values) == [row.line.index for row in report.rows]
    for row in report.rows:
        expected = [row.rank, row.score, row.gain, row.conflict, row.line.trained_tokens]
        assert values[row.line.index] == [
            None if value is None else pytest.approx(value, rel=1e-5) for value in expected
        ]
        assert visible(row.prompt) in parsed.text and visible(row.response) in parsed.text
        assert all(visible(pick.id) in parsed.text for pick in (*row.overlaps, *row.opposes))


TEXTS = st.text(st.characters() | st.sampled_from("<>&\"'/!-\u2028\u202e\x00\ud800\ufffe")) | st.sampled_from(HOSTILE)


@settings(deadline=None, max_examples=50)
@given(TEXTS)
def test_any_text_is_text_of_the_page(text: str) -> None:
    """Whatever a report and its rows say, the page has the same elements and shows it; control characters replaced."""
    report, usual = (
        dataclasses.replace(
            bare_report(),
            title=title,
            facts=[(title, title, "x")],
            notes=[title],
            rows=[named_row(title)],
        )
        for title in (text, "usual")
    )
    found, expected = Parsed(page(report)), Parsed(page(usual))
    assert [tag for tag, _ in found.elements] == [tag for tag, _ in expected.elements]
    assert found.text.count(visible(text)) >= (8 if text else 1)


def test_every_text_of_a_report_is_shown() -> None:
    """Outside the data block too: names, reasons, definitions and notes stand in the page as they are."""
    report = full_report(sources=20)
    shown = Parsed(page(report)).text
    missing = [text for text in texts_of(report) if visible(text) not in shown]
    assert missing == []


def test_ids_are_unique_and_every_reference_has_one(made) -> None:
    """Over the whole page; links to rows lead to rows that are in it."""
    report, _, parsed = made
    ids = Counter(parsed.values("id"))
    assert not [name for name, count in ids.items() if count > 1]
    references = [*parsed.values("aria-labelledby"), *(href[1:] for href in parsed.values("href") if href[:1] == "#")]
    assert [name for name in references if name not in ids] == []
    named = {int(href[5:]) for href in parsed.values("href") if href.startswith("#row-")}
    assert named <= {row.line.index for row in report.rows}


def test_tables_and_landmarks(made) -> None:
    """Each table has a caption and headers with a scope; there is one main part and h1, and a link that skips to it."""
    _, _, parsed = made
    tags = Counter(tag for tag, _ in parsed.elements)
    assert tags["h1"] == tags["main"] == tags["nav"] == 1
    assert tags["table"] == tags["caption"]
    assert all("scope" in attributes for tag, attributes in parsed.elements if tag == "th")
    assert next(a["href"] for tag, a in parsed.elements if tag == "a") == "#main"


def test_parts_that_are_not_known_are_absent() -> None:
    """No heading, no link and no figure of them."""
    ids = Parsed(page(empty_report())).values("id")
    assert not {"quality", "audit", "languages-table", "diversity-table"} & set(ids)
    assert report_plots(empty_report()) == report_plots(bare_report()) == []
    without = dataclasses.replace(full_report(), theory=None, target=None)
    assert [plot.name for plot in report_plots(without)] == ["lengths", "sources"]
    assert "quality" not in Parsed(page(without)).values("id")


def test_the_page_says_how_many_rows_it_holds() -> None:
    """Only where it does not hold all."""
    sentence = "This page holds 60 of the pool's 4,711 rows."
    assert sentence in Parsed(page(full_report(60, 4711))).text
    assert "This page holds" not in Parsed(page(full_report(60, 60))).text


def test_a_list_that_is_cut_says_of_how_many() -> None:
    """The oracle's page lists 1 of 2,345 doubtful picks and 6 of 30 target rows, and all of the other lists."""
    text = Parsed(page(full_report(60, 60))).text
    assert "The 1 worst of 2,345." in text and "The 6 worst of 30." in text and text.count("worst of") == 2


def test_what_was_not_looked_for_is_said_so() -> None:
    """None found stands only where somebody looked."""
    report = full_report(60, 60, hostile=False)
    looked = replace(report.audit, duplicates=[], doubtful=Findings(0, []), suspects=Findings(0, []))
    nobody = replace(report.audit, duplicates=None, doubtful=None, suspects=None)
    texts = [Parsed(page(replace(report, audit=audit))).text for audit in (looked, nobody)]
    assert [text.count("None found") for text in texts] == [3, 0]
    assert [text.count("Not looked for") for text in texts] == [0, 3]


def test_precisions_are_those_that_were_measured() -> None:
    """The percentages beside the lists are those of benchmarks/RESULTS.md."""
    results = (Path(__file__).parents[2] / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    lines = [line.strip("| ").split(" | ") for line in results.splitlines() if line.startswith("| ")]
    planted = {line[0]: line for line in lines if len(line) == 6}
    assert round(100 * float(planted["near-duplicates of both kinds"][5])) == precision.DUPLICATES["gradient"]
    assert round(100 * float(planted["swapped answers, by `--answers`"][5])) == precision.ANSWERS
    assert round(100 * float(planted["swapped answers, by conflict"][5])) == precision.CONFLICTS
    loss = {line[0]: line[2] for line in lines if line[1:2] == ["loss above its source's fence"]}
    for features, noun in (("gradients", "gradient"), ("preconditioned", "preconditioned gradient")):
        assert loss[features].endswith(f"({precision.LOSS[noun]}%)")


def test_the_picks_of_a_group_are_marked() -> None:
    """And counted, in the summary of the group, which is folded."""
    report = full_report(60, 60, hostile=False)
    group = replace(report.audit.duplicates[0], picks=[report.audit.duplicates[0].lines[1].index])
    text = page(replace(report, audit=replace(report.audit, duplicates=[group], groups=1)))
    assert "3 rows, 1 picked" in text and text.count('<span class="chip">picked</span>') == 1
    assert '<details class="group"><summary>' in text


def test_ids_that_are_saved_are_exactly_those_of_the_table() -> None:
    """Control characters included, which the page itself shows otherwise."""
    report = full_report()
    buttons = [a for tag, a in Parsed(page(report)).elements if tag == "button"]
    tables = [report.audit.doubtful, report.audit.suspects]
    spare, *listed = [json.loads(a["data-ids"]) for a in buttons]
    assert listed == [[finding.line.id for finding in found.listed] for found in tables]
    assert spare == [line.id for group in report.audit.duplicates for line in group.lines[1:]]


def test_the_same_report_gives_the_same_bytes(tmp_path) -> None:
    """Page and figures, whatever the user's settings of matplotlib, and those stay as they were."""
    first = page(full_report()), written(full_report(), tmp_path / "first")
    with matplotlib.rc_context({"font.size": 31, "axes.linewidth": 5.0, "xtick.direction": "in"}):
        before = dict(matplotlib.rcParams)
        second = page(full_report()), written(full_report(), tmp_path / "second")
        assert dict(matplotlib.rcParams) == before
    assert first == second
    assert set(first[1]) == {f"{name}.{kind}" for name in FIGURES for kind in ("svg", "png")}


def test_figures_are_images_with_a_text_alternative() -> None:
    """Each has one image for light and one for dark screens, which differ, and says its main quantities in words."""
    report = full_report(hostile=False)
    pictures = [attributes for tag, attributes in Parsed(page(report)).elements if tag in {"source", "img"}]
    images = page_images(report_plots(report))
    assert tuple(images) == FIGURES
    assert [(one["srcset"], two["src"]) for one, two in zip(pictures[::2], pictures[1::2], strict=True)] == [
        (image.dark, image.light) for image in (images[name] for name in SHOWN)
    ]
    assert all(image.dark != image.light for image in images.values())
    assert "from 1.31 nats at the first pick to 0.42 at the last" in images["gain"].alt.replace("goes ", "")
    assert "is highest, 0.04, at pick 12" in images["conflict"].alt
    assert "these picks 31.65, against random rows 15.97" in images["information"].alt
    assert "most of 2 to 6, 25.0%" in images["lengths"].alt
    assert "most of facts, 15.4%, and least of chats, 0.0%" in images["sources"].alt


def test_figures_are_files_that_open(tmp_path) -> None:
    """SVG parses as XML and PNG begins as such, with hostile names too."""
    for path in write_figures(report_plots(full_report(sources=20)), tmp_path / "new" / "figures"):
        if path.suffix == ".svg":
            ElementTree.parse(path)
        else:
            assert path.read_bytes().startswith(b"\x89PNG\r\n")
    assert {path.suffix for path in (tmp_path / "new" / "figures").iterdir()} == {".svg", ".png"}


@pytest.mark.parametrize(("sources", "lines"), [(2, 2), (12, 12), (13, 13), (40, 13)])
def test_small_sources_are_joined(sources: int, lines: int, tmp_path) -> None:
    """Twelve have a line of their own, the others one together, so that the shares still make a whole."""
    plots = [plot for plot in report_plots(full_report(hostile=False, sources=sources)) if plot.name == "sources"]
    path, _ = write_figures(plots, tmp_path)
    texts = [text.text for text in ElementTree.parse(path).iterfind(".//{*}text")]
    names = [text for text in texts if re.match("word-problems|code|facts|rewriting|chats|source-|[0-9]+ other", text)]
    assert len(names) == lines
    assert (f"{sources - 12} other sources" in names) == (sources > 12)


@pytest.mark.parametrize(("steps", "last"), [(1, 1.0), (2, 0.5), (400, 1e-4)])
def test_curves_of_any_length(steps: int, last: float) -> None:
    """A single pick, and many with gains over several orders of magnitude, draw without a fault."""
    report = full_report(hostile=False)
    curve = dataclasses.replace(
        report.theory.gain,
        picks=range(1, steps + 1),
        **{name: [max(last, 1.3 * 0.97**step) for step in range(steps)] for name in ("mean", "low", "high")},
    )
    theory = dataclasses.replace(report.theory, gain=curve, base=curve, conflict=curve, half_life=None)
    assert set(page_images(report_plots(dataclasses.replace(report, theory=theory)))) == set(FIGURES)


# Helpers ----------------------------------------------------------------------------------------------------------


def content(parsed: Parsed, tag: str, attributes: dict[str, str]) -> str:
    (found,) = (text for name, given, text in parsed.raw if (name, given) == (tag, attributes))
    return found


def sha256(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def visible(text: str) -> str:
    """What a page shows of a text."""
    return "".join(
        "\ufffd" if (unicodedata.category(c) in {"Cc", "Cs"} and c not in "\t\n") or c in "\ufffe\uffff" else c
        for c in text
    )


def named_row(text: str) -> RowStory:
    """A row all of whose texts are `text`."""
    row = bare_report().rows[0]
    line = dataclasses.replace(row.line, id=text, source=text, location=text)
    return dataclasses.replace(row, line=line, prompt=text, response=text)


def texts_of(report: SelectionReport) -> Iterator[str]:
    yield report.title
    yield from report.notes
    for fact in [*report.facts, *report.about]:
        yield from fact
    yield from (rival.name for rival in report.theory.rivals)
    yield from (line.name for line in report.theory.correlations)
    parts = report.composition
    yield from (part.name for part in [*parts.sources, *parts.lengths, *parts.languages])
    for line in report.diversity:
        yield from (line.name, line.space)
    audit = report.audit
    yield audit.scope
    lists = [audit.doubtful, audit.suspects]  # what was not shown to be right is on the terminal only
    for finding in [finding for found in lists for finding in found.listed]:
        yield from (finding.line.id, finding.line.source, finding.line.location, finding.reason)
        yield from (other.id for other in finding.others)
    for group in audit.duplicates:
        yield from (text for line in group.lines for text in (line.id, line.source))


def written(report: SelectionReport, directory) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in write_figures(report_plots(report), directory)}
