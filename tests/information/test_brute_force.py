"""Certificates, guarantees and picks of small selections, held against every alternative."""

from oracles.brute_force import count_violations


def test_no_law_is_broken_on_three_hundred_instances() -> None:
    """The long form is the oracle's own command; its docstring says what an instance may hold."""
    assert count_violations(range(300)) == {}
