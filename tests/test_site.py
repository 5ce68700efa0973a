"""Laws on the site: it builds without a warning, every page is reached, and commands that pages print exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import click

from spice_select.cli import app

ROOT = Path(__file__).resolve().parents[1]


def test_the_site_builds_without_a_warning_and_leads_to_every_page(tmp_path: Path) -> None:
    """Sphinx warns of a page in no table of contents, a dead local link or anchor, and a docstring it cannot read; the
    pages are those of the sidebar, and each file of docs/ is one."""
    site = tmp_path / "site"
    words = ["-qW", "--keep-going", "-c", "docs", "-d", str(tmp_path / "doctrees"), ".", str(site)]
    done = subprocess.run([sys.executable, "-m", "sphinx", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    home = (site / "docs" / "index.html").read_text(encoding="utf-8")
    found = re.search(r'<div class="sidebar-tree">(.*?)</aside>', home, re.DOTALL)
    assert found is not None
    linked = re.findall(r'href="([^"#]+\.html)"', found[1])
    reached = {(site / "docs" / unquote(link)).resolve() for link in linked}
    pages = {site / "docs" / f"{page.stem}.html" for page in (ROOT / "docs").glob("*.md")} - {site / "docs/index.html"}
    assert pages <= reached and all(page.is_file() for page in reached)
    assert 'url=docs/index.html"' in (site / "index.html").read_text(encoding="utf-8")


def test_pages_name_commands_and_options_that_exist() -> None:
    """Each line of a page that starts with a command, alone or under torchrun, names options that the command has."""
    pages = [ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").glob("*.md")]
    found = 0
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for line in re.findall(r"^ *(?:torchrun .*-m spice_select|spice-select) ([a-z]+ [^#\n]*)", text, re.MULTILINE):
            for words in re.split(r"&& spice-select ", line):
                name, *rest = words.split()
                command = app.get_command(click.Context(app), name)
                assert command is not None, f"{page.name}: {words}"
                known = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
                named = {word for word in rest if word.startswith("--")}
                assert named <= known, f"{page.name}: {words}"
                found += 1
    assert found > 40
