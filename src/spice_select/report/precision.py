"""How often a list of the audit is right, in percent, as benchmarks/RESULTS.md measured it on 1,000 rows."""

from collections.abc import Mapping

DUPLICATES: Mapping[str, int] = {"gradient": 99}
"""Planted ones among the pairs of gradients' cosines of at least 0.65, by what rows are compared by."""

LOSS: Mapping[str, int] = {"gradient": 43, "preconditioned gradient": 53}
"""Wrong answers among rows whose loss is above its source's fence, where a tenth of all answers were wrong."""

ANSWERS = 57
"""Wrong answers among the likely wrong ones, where a twentieth of all answers were wrong."""

CONFLICTS = 6
"""Wrong answers among as many rows that oppose the picks most, where a twentieth of all answers were wrong."""
