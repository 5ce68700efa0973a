"""From a finished run to its report: `report.html` and the figures beside it.

from spice_select.report.build import build, write
write(build(Path("chosen")), Path("chosen"))
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spice_select.errors import SpiceSelectError
from spice_select.files.atomic import write_text
from spice_select.files.directory import FIGURES, PAGE_BYTES, REPORT, refuse_links
from spice_select.information import SelectionInputError
from spice_select.progress import Progress
from spice_select.report.audit import audit_of
from spice_select.report.composition import LANGUAGE_ROWS, composition_of
from spice_select.report.content import Audit, Report, Theory
from spice_select.report.diversity import diversity_of, embedding_diversity
from spice_select.report.evidence import Evidence, open_run
from spice_select.report.figures import draw
from spice_select.report.page import page
from spice_select.report.stories import Turns, neighbours_of, stories_of, turns_of
from spice_select.report.theory import theory_of
from spice_select.schedule.bad_rows import NAMED

PAGE_ROWS = 2000
"""Most rows that can be looked up in a page."""

PAGE_TEXT = PAGE_BYTES // 2
"""About how many bytes of rows' texts a page may hold; the rest is for everything else."""

LONGEST_TEXT = 2000
"""Most characters of a prompt or a response, also where there is room."""


def build(directory: Path, progress: Progress, embeddings: Path | None = None) -> Report:
    """Compute the report of a finished run.

    Args:
        directory: of the run.
        progress: told what is being looked at.
        embeddings: a .npy file with a vector for every usable row, in the order of scores.parquet.

    Raises:
        OutputError: the directory holds no finished run, or a file is damaged.
        ConfigError: the embeddings do not fit the run.

    """
    evidence = open_run(directory)
    notes = [*evidence.missing, *_left_out(evidence)]
    progress.note("report: information and conflict")
    theory = theory_of(evidence.records, evidence.pools, evidence.config, notes)
    progress.note("report: what was chosen")
    texts = _texts(evidence, notes)
    composition = composition_of(evidence.lines, evidence.records, {row: text.response for row, text in texts.items()})
    progress.note("report: diversity")
    seed = evidence.config.seed
    diversity = diversity_of([(pool, pool.record.picks) for pool in evidence.pools], seed)
    if embeddings is not None:
        diversity += embedding_diversity(embeddings, len(evidence.lines), evidence.picked, seed)
    progress.note("report: rows that conflict, and duplicates")
    audit = audit_of(evidence)
    rows = _rows_of_page(evidence, audit)
    unknown = [row for row in rows if row not in texts]
    texts |= _turns(evidence, unknown)
    near = neighbours_of(rows, evidence.pools, evidence.lines)
    return Report(
        title=directory.resolve().name,
        facts=_facts(evidence, theory),
        notes=notes,
        theory=theory,
        composition=composition,
        diversity=diversity,
        rows=stories_of(rows, evidence.lines, evidence.records, near, texts, _room(rows, texts)),
        all_rows=len(evidence.lines),
        audit=audit,
    )


def write(report: Report, directory: Path) -> list[Path]:
    """Write the page, and the figures as SVG and PNG; earlier ones are replaced. Returns what was written.

    Raises:
        OutputError: the directory cannot be written to, or its folder of figures is a link.

    """
    refuse_links(directory, FIGURES)
    figures = draw(report, directory / FIGURES)
    return [write_page(report, directory), *figures]


def write_page(report: Report, directory: Path) -> Path:
    """Write `report.html`; an earlier one is replaced."""
    write_text(directory / REPORT, page(report))
    return directory / REPORT


def close_with_page(directory: Path, progress: Progress) -> None:
    """Write the page of a run that has just finished; where that fails a note says so, and the run stays finished."""
    try:
        write_page(build(directory, progress), directory)
    except (SpiceSelectError, SelectionInputError) as error:
        reason = str(error).splitlines()[0]
        progress.note(
            f"the choice is complete, its report is not: {reason}\n`spice-select report {directory}` tries again"
        )


def _left_out(evidence: Evidence) -> list[str]:
    """A sentence on rows that could not be chosen, if there are any."""
    bad = [row for record in evidence.records for row in record.bad]
    if not bad:
        return []
    named = ", ".join(row.id for row in bad[:NAMED])
    more = f" and {len(bad) - NAMED:,} more" if len(bad) > NAMED else ""
    return [f"{len(bad):,} rows could not be chosen, their loss or gradient is not finite: {named}{more}."]


def _texts(evidence: Evidence, notes: list[str]) -> dict[int, Turns]:
    """Texts of all rows, or of so many that languages can be told."""
    rows = len(evidence.lines)
    some = sorted(_shuffled(range(rows), evidence.config.seed)[:LANGUAGE_ROWS])
    if len(some) < rows:
        notes.append(f"Languages are those of {len(some):,} random rows.")
    return _turns(evidence, some)


def _turns(evidence: Evidence, rows: Sequence[int]) -> dict[int, Turns]:
    chats = evidence.texts(rows) if rows else None
    return {} if chats is None else turns_of(rows, chats)


def _rows_of_page(evidence: Evidence, audit: Audit | None) -> list[int]:
    """All rows, or those that an audit names, then picks, then others, at random, until there are enough."""
    everything = range(len(evidence.lines))
    if len(everything) <= PAGE_ROWS:
        return list(everything)
    rows = dict.fromkeys(_named(audit)[: PAGE_ROWS // 4])
    for group, most in ((evidence.picked, 3 * PAGE_ROWS // 4), (everything, PAGE_ROWS)):
        for row in _shuffled(group, evidence.config.seed):
            if len(rows) >= most:
                break
            rows[row] = None
    return sorted(rows)


def _room(rows: Sequence[int], texts: Mapping[int, Turns]) -> int:
    """How many characters of a prompt, and of a response, the page has room for."""
    shown = [text for row in rows if row in texts for text in (texts[row].prompt, texts[row].response)]
    letters = sum(map(len, shown))
    bytes_of_one = sum(len(text.encode("utf-8", "replace")) for text in shown) / letters if letters else 1.0
    return min(LONGEST_TEXT, int(PAGE_TEXT / bytes_of_one / max(1, len(shown))))


def _shuffled(rows: Sequence[int], seed: int) -> list[int]:
    return np.random.default_rng(seed).permutation(np.array(rows, dtype=np.int64)).tolist()


def _named(audit: Audit | None) -> list[int]:
    """Rows that an audit points at."""
    if audit is None:
        return []
    findings = [finding.row for found in (audit.conflicts, audit.outliers, audit.suspects) for finding in found.listed]
    return findings + [row for group in audit.duplicates or [] for row in group.rows]


def _facts(evidence: Evidence, theory: Theory | None) -> list[tuple[str, str, str]]:
    config = evidence.config
    tokens: list[int] = evidence.lines.trained_tokens.tolist()
    kept = [tokens[row] for row in evidence.picked]
    median = statistics.median(kept) if kept else 0
    facts = [
        ("rows kept", f"{len(kept):,} of {len(tokens):,}", f"method {config.method}, budget {config.budget}"),
        ("trained tokens", f"{sum(kept):,}", f"{sum(kept) / sum(tokens):.1%} of the pool's {sum(tokens):,}"),
        (
            "median response",
            f"{median:g} tokens",
            f"in the pool {statistics.median(tokens):g}; short responses have large gradients",
        ),
    ]
    if theory is None:
        return facts
    facts.append(
        (
            "certificate",
            f"at least {theory.certificate:.1%}",
            "of the information that the best possible choice of as many rows could have, in the same candidate pools",
        )
    )
    random_rows = next((rival for rival in theory.rivals if rival.name.startswith("random")), None)
    if random_rows is not None and random_rows.information > 0:
        ratio = theory.compared / random_rows.information
        beside = f"{theory.compared:,.1f} nats against {random_rows.information:,.1f}"
        facts.append(("information", f"{ratio:.2f} times random", beside))
    return facts
