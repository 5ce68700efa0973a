"""The command line run inside the test's process, and what every refusal of it must be."""

import sys
from pathlib import Path

import pytest

from spice_select.cli import main


def snapshot(folder: Path) -> dict[str, bytes | str | None]:
    """Every path under a folder with its content: a file's bytes, a link's target."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
    }


def refusal(folder: Path, arguments: list[object], monkeypatch, capsys) -> str:
    """The message of a command that is refused as a user's mistake must be, in `folder` as working directory.

    One to three lines, exit code 2, no traceback, and nothing under `folder` written, changed or removed.
    """
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["spice-select", *map(str, arguments)])
    before = snapshot(folder)
    with pytest.raises(SystemExit) as stopped:
        main()
    captured = capsys.readouterr()
    assert stopped.value.code == 2, captured.err
    assert "Traceback" not in captured.err
    message = captured.err.rpartition("spice-select: ")[2].strip()
    lines = message.splitlines()
    assert 1 <= len(lines) <= 3, message
    assert max(map(len, lines)) <= 2000, "a line is as long as a page"
    assert snapshot(folder) == before, "nothing may be written"
    return message
