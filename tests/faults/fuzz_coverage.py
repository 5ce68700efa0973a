"""Fuzzing led by coverage: atheris mutates bytes, and each is held to the laws of `fuzz.py` as a pool's file.

    pip install atheris
    python tests/faults/fuzz_coverage.py [CORPUS] -max_total_time=300

The first byte says which kind of file the others are. For where atheris runs (CPython on Linux); no test needs it.
"""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import atheris  # pyright: ignore

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

with atheris.instrument_imports(include=["spice_select.pool"]):
    import fuzz

    from spice_select.errors import SpiceSelectError

ENDINGS = (".jsonl", ".json", ".csv", ".jsonl.gz", ".json.gz", ".csv.gz", ".parquet")


def one(folder: Path, data: bytes) -> None:
    """Read one file. What is no SpiceSelectError ends the fuzzing with the input that led to it."""
    if not data:
        return
    ending = ENDINGS[data[0] % len(ENDINGS)]
    path = folder / f"p{ending}"
    path.write_bytes(data[1:])
    with contextlib.suppress(SpiceSelectError):
        fuzz.check_pool(path, fuzz.NAMES[data[0] // len(ENDINGS) % len(fuzz.NAMES)])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="spice-fuzz-") as scratch:
        atheris.Setup(sys.argv, lambda data: one(Path(scratch), data))
        atheris.Fuzz()
