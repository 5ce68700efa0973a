"""Near-duplicates: rows of one candidate pool whose gradients, or states, and whose texts are nearly the same."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from spice_select.information.similar import groups_among, similar_groups
from spice_select.report.content import DuplicateGroup
from spice_select.report.finished_run import FinishedRun, PoolGradients
from spice_select.report.row_stories import turns_of
from spice_select.report.similar_texts import similar_pairs, word_weights, words_of

SAME, SAME_OTHERS = 0.65, 0.98
"""Least cosine of two gradients whose rows count as near-duplicates, and that of other features: all rows of a pool
share much of their states, and the moments in their preconditioned gradients (pool_1k's unlike rows reach 0.96)."""
WEIGHING = 2000  # random rows by whose texts words are weighed


def duplicates_of(run: FinishedRun, same: float | None, shown: int | None) -> list[DuplicateGroup] | None:
    """Rows linked by features and texts that are both nearly the same, the largest groups first, `shown` rows of each.

    `same` is the least cosine of two near-duplicates; None for the default of the run's features. None where features
    or texts are not available.
    """
    usual = SAME if run.config.features == "gradients" else SAME_OTHERS
    same = usual if same is None else same
    linked = [(pool, [members for members, _ in similar_groups(pool.uncut, same)]) for pool in run.pools]
    known = _words(run, [pool.record.rows[place] for pool, found in linked for members in found for place in members])
    if not run.pools or known is None:
        return None
    texts, weights = known
    groups: list[tuple[list[int], float]] = []
    for pool, members in linked:
        pairs = torch.tensor(_alike(pool, members, texts, weights), dtype=torch.int64).reshape(-1, 2)
        found = groups_among(pool.uncut, pairs, same)
        groups += [(sorted(pool.record.rows[place] for place in places), least) for places, least in found]
    groups.sort(key=lambda group: (-len(group[0]), group[0]))
    picked = {*run.picked}
    return [
        DuplicateGroup(
            len(rows), [run.lines[row] for row in rows[:shown]], least, [row for row in rows[:shown] if row in picked]
        )
        for rows, least in groups
    ]  # fmt: skip


Known = Mapping[int, tuple[str, Counter[str]]]
"""Response and words of rows by number."""


def _words(run: FinishedRun, rows: Sequence[int]) -> tuple[Known, Mapping[str, float]] | None:
    """Of these rows, and the weights of words by them and by a sample of all rows; None where texts are missing."""
    sample = np.random.default_rng(run.config.seed).permutation(len(run.lines))[:WEIGHING].tolist()
    turns = turns_of(run, sorted({*rows, *sample}))
    if not turns:
        return None
    words = {row: (text.response, words_of(f"{text.prompt}\n{text.response}")) for row, text in turns.items()}
    return words, word_weights([counts for _, counts in words.values()])


def _alike(
    pool: PoolGradients, groups: Sequence[Sequence[int]], texts: Known, weights: Mapping[str, float]
) -> list[tuple[int, int]]:
    """Places of rows of the same group whose texts are alike."""
    found: list[tuple[int, int]] = []
    for places in groups:
        responses, words = zip(*(texts[pool.record.rows[place]] for place in places), strict=True)
        found += [(places[one], places[other]) for one, other in similar_pairs(words, responses, weights)]
    return found
