"""Laws on the site: it builds without a warning, and every page is reached."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

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
