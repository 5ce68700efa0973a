"""The short form of `kills.py`, which holds the law."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_killed_commands_go_on_to_the_same_files():
    script = Path(__file__).with_name("kills.py")
    done = subprocess.run(
        [sys.executable, script, "--kills", "7", "--seed", "3"], capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIGKILL 7" in done.stdout, done.stdout
