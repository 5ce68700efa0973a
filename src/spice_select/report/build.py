"""From a finished run to its report: `report.html` and the figures beside it.

from spice_select.report.build import build, write
write(build(Path("chosen"), NoProgress()), Path("chosen"))
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spice_select.errors import SpiceSelectError
from spice_select.files.atomic import write_text
from spice_select.files.directory import FIGURES, PAGE_BYTES, REPORT, read_manifest, refuse_links
from spice_select.information import SelectionInputError
from spice_select.option_values import factor_of
from spice_select.progress import Progress
from spice_select.report.about import about
from spice_select.report.audit import audit_of
from spice_select.report.composition import LANGUAGE_ROWS, composition_of, diversity_of, embedding_diversity
from spice_select.report.content import Audit, Composition, SelectionReport
from spice_select.report.drawing import write_figures
from spice_select.report.figures import report_plots
from spice_select.report.finished_run import FinishedRun, open_run
from spice_select.report.page import page
from spice_select.report.row_stories import Turns, stories_of, turns_of
from spice_select.report.target_story import served_by, target_story_of
from spice_select.report.theory import theory_of
from spice_select.schedule.bad_rows import NAMED

PAGE_ROWS = 2000  # most rows that can be looked up in a page
PAGE_TEXT = PAGE_BYTES // 3  # about how many bytes of rows' texts a page may hold; the rest is for everything else
LONGEST_TEXT = 2000  # most characters of a prompt or a response, even where there is room for more


def build(directory: Path, progress: Progress, embeddings: Path | None = None) -> SelectionReport:
    """Compute the report of a finished run.

    `embeddings` is a .npy file with a vector for every usable row, in the order of scores.parquet. Raises `ConfigError`
    if they do not fit the run, `OutputError` if the directory holds no finished run or a file is damaged.
    """
    run = open_run(directory)
    notes = [*run.missing, *_left_out(run)]
    progress.note("report: information and conflict")
    theory = theory_of(run, notes)
    target = target_story_of(run, notes)
    progress.note("report: composition and diversity of the picks")
    texts = _sample_of_texts(run, notes)
    composition = composition_of(run.lines, run.records, {row: text.response for row, text in texts.items()})
    picks, sources = [(pool, pool.record.picks) for pool in run.pools], [line.source for line in run.lines]
    diversity = diversity_of(picks, run.config.seed, run.noun, sources)
    if embeddings is not None:
        diversity += embedding_diversity(embeddings, len(run.lines), run.picked, run.config.seed)
    progress.note("report: conflicting rows, duplicates and outliers")
    audit = audit_of(run)
    rows = _rows_of_page(run, audit)
    texts |= turns_of(run, [row for row in rows if row not in texts])
    return SelectionReport(
        title=directory.resolve().name,
        noun=run.noun,
        facts=_facts(run, composition),
        notes=notes,
        theory=theory,
        composition=composition,
        diversity=diversity,
        rows=stories_of(run, rows, texts, _longest_text(rows, texts), served_by(run)),
        all_rows=len(run.lines),
        audit=audit,
        target=target,
        about=about(read_manifest(directory), run.config),
        scale=factor_of(run.config.scale, run.config.features),
    )


def write(report: SelectionReport, directory: Path) -> list[Path]:
    """Write the page, and the figures as SVG and PNG; earlier ones are replaced. Returns what was written.

    Raises `OutputError` if the directory cannot be written to, or its folder of figures is a link.
    """
    refuse_links(directory, FIGURES)
    figures = write_figures(report_plots(report), directory / FIGURES)
    return [write_page(report, directory), *figures]


def write_page(report: SelectionReport, directory: Path) -> Path:
    """Write `report.html`; an earlier one is replaced."""
    write_text(directory / REPORT, page(report))
    return directory / REPORT


def close_with_page(directory: Path, progress: Progress) -> None:
    """Write the page of a run that has just finished; a failure becomes a note, and the run stays finished."""
    try:
        write_page(build(directory, progress), directory)
    except (SpiceSelectError, SelectionInputError) as error:
        reason = str(error).splitlines()[0]
        progress.note(
            f"the selection is complete, but its report could not be written: {reason}\n"
            f"`spice-select report {directory}` tries again"
        )


def _left_out(run: FinishedRun) -> list[str]:
    notes: list[str] = []
    for rows, why in (
        ([row for record in run.records for row in record.bad], f"their loss or {run.noun} is not finite"),
        ([row for record in run.records for row in record.leaks], "they equal a target row"),
    ):
        if rows:
            named = ", ".join(row.id for row in rows[:NAMED])
            more = f" and {len(rows) - NAMED:,} more" if len(rows) > NAMED else ""
            notes.append(f"{len(rows):,} rows could not be chosen, because {why}: {named}{more}.")
    return notes


def _sample_of_texts(run: FinishedRun, notes: list[str]) -> dict[int, Turns]:
    """Texts of all rows, or of as many random ones as suffice to detect languages; none where nothing detects them."""
    if importlib.util.find_spec("py3langid") is None:
        notes.append("Languages were not detected: pip install 'spice-select[languages]', then report again.")
        return {}
    rows = len(run.lines)
    some = sorted(_shuffled(range(rows), run.config.seed)[:LANGUAGE_ROWS])
    if len(some) < rows:
        notes.append(f"Languages were detected in {len(some):,} random rows.")
    return turns_of(run, some)


def _rows_of_page(run: FinishedRun, audit: Audit | None) -> list[int]:
    """All rows; of too many, those that the audit lists, then random picks, then random others."""
    everything = range(len(run.lines))
    if len(everything) <= PAGE_ROWS:
        return list(everything)
    lists = [] if audit is None else [audit.doubtful, audit.suspects]
    findings = [finding for found in lists if found for finding in found.listed]
    groups = (audit and audit.duplicates) or []
    audited = [*(finding.line.index for finding in findings), *(line.index for group in groups for line in group.lines)]
    rows = dict.fromkeys(audited[: PAGE_ROWS // 4])
    for group, most in ((run.picked, 3 * PAGE_ROWS // 4), (everything, PAGE_ROWS)):
        others = [row for row in _shuffled(group, run.config.seed) if row not in rows]
        rows |= dict.fromkeys(others[: most - len(rows)])
    return sorted(rows)


def _longest_text(rows: Sequence[int], texts: Mapping[int, Turns]) -> int:
    """How many characters of each prompt and response the page has room for."""
    shown = [text for row in rows if row in texts for text in (texts[row].prompt, texts[row].response)]
    letters = sum(map(len, shown))
    letter_bytes = sum(len(text.encode("utf-8", "replace")) for text in shown) / letters if letters else 1.0
    return min(LONGEST_TEXT, int(PAGE_TEXT / letter_bytes / max(1, len(shown))))


def _shuffled(rows: Sequence[int], seed: int) -> list[int]:
    return np.random.default_rng(seed).permutation(np.array(rows, dtype=np.int64)).tolist()


def _facts(run: FinishedRun, parts: Composition) -> list[tuple[str, str, str]]:
    tokens = run.lines.trained_tokens
    kept = tokens[run.picked]
    share = f"{kept.sum() / tokens.sum():.1%} of the pool's {tokens.sum():,}"
    return [
        ("rows kept", f"{len(kept):,} of {len(tokens):,}", f"budget {run.config.budget}"),
        ("trained tokens", f"{kept.sum():,}", share),
        ("median response", f"{parts.kept_median:g} tokens", f"in the pool: {parts.median:g} tokens"),
    ]
