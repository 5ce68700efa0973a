"""The longest responses (Zhao et al., Long Is More for Alignment, ICML 2024)."""

from spice_select.methods.facts import RowFacts


def order(facts: RowFacts) -> list[int]:
    """Rows by response tokens, longest first; ties go to the lower row."""
    return sorted(range(len(facts.trained_tokens)), key=lambda row: (-facts.trained_tokens[row], row))
