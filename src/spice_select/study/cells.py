"""What a cell of a study may say: the options of `run` that differ between cells, and a study's own keys."""

from collections.abc import Mapping
from typing import Any

from spice_select.config import RunConfig
from spice_select.methods import GRADIENT_METHODS
from spice_select.option_values import TARGETED, TRAINING, WITHOUT_GRADIENTS

EQUAL_TOKENS = "equal_tokens_to"
"""Key of a cell: take rows until their trained tokens are nearest to those of the named cell."""
TARGET = "target"
"""Key of a cell: rows are chosen for each target of the study."""
TARGET_ROWS = "target_rows"
"""Key of the study, and of a cell: how many rows are drawn of a target."""
OF_TARGET_SOURCES = "of_target_sources"
"""Key of a cell: random rows of the sources that a target's rows come from."""
FULL = "full"
"""Key of a cell: all usable rows of the pool. Only the fine-tuning depends on the seed."""
STUDY_KEYS = {EQUAL_TOKENS, TARGET, TARGET_ROWS, OF_TARGET_SOURCES, FULL}
UNTRAINED = "untrained"
"""The line of the model before any fine-tuning, and no name of a cell."""
ALL_ROWS = {"method": "random", "budget": "100%"}
"""What `full` stands for."""

SCORE_KEYS = {"penalty", "scale", "directions", "fisher_alpha", "fisher_alpha_mode"}
_TARGET_KEYS = {"target_rule", "target_share", "stop_coverage", "keep_target_rows"}
_PROXY_KEYS = {"features", "layers", "learning_rate", "warmup_steps", "dim"}
_OF_METHODS = {"method", "balance", "constants", "judge"}
_SCHEDULE_KEYS = {*_OF_METHODS, "stop_ratio", "preset", "candidates", "update_every", "budget"}
CELL_KEYS = SCORE_KEYS | _TARGET_KEYS | _PROXY_KEYS | _SCHEDULE_KEYS
_WITHOUT = dict.fromkeys(WITHOUT_GRADIENTS, CELL_KEYS - {*_OF_METHODS, "budget"})
IGNORED_KEYS = {
    "fisher": {"penalty"}, **dict.fromkeys((*GRADIENT_METHODS, *TARGETED), SCORE_KEYS), **_WITHOUT,
    **{method: _WITHOUT[method] - {"learning_rate", "layers"} for method in TRAINING},
}  # fmt: skip
"""Keys of a cell that do not change what a method picks."""

Cells = Mapping[str, Mapping[str, Any]]


def depends_on_target(name: str, cells: Cells) -> bool:
    """Whether a cell is made for each target: by its own keys, or as it follows one that is."""
    cell = cells[name]
    other = cell.get(EQUAL_TOKENS)
    return TARGET in cell or OF_TARGET_SOURCES in cell or (other is not None and depends_on_target(other, cells))


def with_equal_tokens(cells: Cells) -> dict[str, Any]:
    """The cells, each followed by random rows of as many trained tokens where none of them takes these already.

    Plain random and full cells, and those that follow another, stay alone.
    """
    found, followed = dict[str, Any](), followers(cells)
    for name, cell in cells.items():
        found[name] = cell
        alone = {EQUAL_TOKENS, FULL} & cell.keys() or (cell.get("method") == "random" and cell.keys() <= {*ALL_ROWS})
        if not alone and name not in followed:
            if f"random-as-{name}" in cells:
                raise ValueError(f"cell 'random-as-{name}': equal_tokens adds a cell of this name; choose another")
            found[f"random-as-{name}"] = {"method": "random", EQUAL_TOKENS: name}
    return found


def followers(cells: Cells) -> dict[str, str]:
    """Cell -> the first one of plain random rows with as many trained tokens."""
    plain = {name: cell for name, cell in cells.items() if set(cell) == {"method", EQUAL_TOKENS}}
    random = [(str(cell[EQUAL_TOKENS]), name) for name, cell in plain.items() if cell["method"] == "random"]
    return dict(reversed(random))


def check_keys(name: str, cells: Cells, most_target_rows: int) -> None:
    """Raise `ValueError`, a line that names the cell, where its keys are unknown or do not go together."""
    cell = cells[name]
    if name == UNTRAINED:
        raise ValueError(f"cell '{name}': is the line of the model before any fine-tuning; choose another name")
    if unknown := cell.keys() - CELL_KEYS - STUDY_KEYS:
        known = ", ".join(sorted(CELL_KEYS | STUDY_KEYS))
        raise ValueError(f"cell '{name}': unknown key {min(unknown)[:80]!r}; known: {known}")
    if FULL in cell and (len(cell) > 1 or cell[FULL] is not True):
        raise ValueError(f"cell '{name}': {FULL} must be true, and takes all rows: leave the other keys out")
    problem = _following(cell, cells) if EQUAL_TOKENS in cell else None
    if problem := problem or _of_a_target(cell, most_target_rows):
        raise ValueError(f"cell '{name}': {problem}")


def check_ignored(name: str, cell: Mapping[str, Any], config: RunConfig) -> None:
    """Raise `ValueError` where a key of a cell changes nothing for the choice that `config` makes."""
    if ignored := cell.keys() & IGNORED_KEYS.get(config.method, set()):
        raise ValueError(f"cell '{name}': '{min(ignored)}' changes nothing for method {config.method}; leave it out")
    if TARGET in cell and config.target_rule == "variance" and "penalty" in cell:
        raise ValueError(f"cell '{name}': 'penalty' changes nothing for target_rule variance; leave it out")
    whole = {"all": ("update_every", "with candidates all"), "auto": ("", "")}
    key, when = whole.get(str(config.candidates), ("dim", "in candidate pools"))
    if key in cell:
        raise ValueError(f"cell '{name}': '{key}' changes nothing {when}; leave it out")


def _following(cell: Mapping[str, Any], cells: Cells) -> str | None:
    other = cell[EQUAL_TOKENS]
    if not isinstance(other, str) or other not in cells or EQUAL_TOKENS in cells[other]:
        return f"{EQUAL_TOKENS} must name a cell that has a budget of its own"
    if cell.get("method") not in WITHOUT_GRADIENTS:
        return f"{EQUAL_TOKENS} goes with {', '.join(WITHOUT_GRADIENTS)}"
    return f"its budget is that of {EQUAL_TOKENS}; leave one of the two out" if "budget" in cell else None


def _of_a_target(cell: Mapping[str, Any], most_rows: int) -> str | None:
    for key in (TARGET, OF_TARGET_SOURCES):
        if cell.get(key, True) is not True:
            return f"{key} must be true, or be left out"
    if OF_TARGET_SOURCES in cell and (cell.keys() & {TARGET, "balance"} or cell.get("method") != "random"):
        return f"{OF_TARGET_SOURCES} goes with method random, and not with {TARGET} or balance"
    rows = cell.get(TARGET_ROWS, most_rows)
    if TARGET_ROWS in cell and TARGET not in cell:
        return f"{TARGET_ROWS} goes with {TARGET}: true"
    if type(rows) is not int or not 1 <= rows <= most_rows:
        return f"{TARGET_ROWS} must be a number from 1 to that of the study, {most_rows}"
    if TARGET in cell and cell.get("candidates", "all") != "all":
        return f"with a {TARGET} rows are chosen among all; leave candidates out"
    return None
