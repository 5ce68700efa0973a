"""A short run of the fuzzer: seeded, so that the suite is the same each time."""

from faults.fuzz import run


def test_hostile_inputs_break_no_law(tmp_path):
    """Rows, damaged files and options; damaged directories have their own tests, and the long run."""
    fuzz = run(tmp_path, inputs=600, seed=20, directories=False)
    assert fuzz.counts["rows: accepted"] > 50
    assert fuzz.counts["rows: rejected"] > 20
