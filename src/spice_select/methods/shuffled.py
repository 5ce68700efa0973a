"""Uniformly random rows: what every method has to beat, at equal rows and (with a budget in tokens) at equal tokens."""

import numpy as np

from spice_select.methods.facts import RowFacts


def order(facts: RowFacts) -> list[int]:
    """A seeded permutation of the rows."""
    return np.random.default_rng([facts.seed, 0]).permutation(len(facts.trained_tokens)).tolist()
