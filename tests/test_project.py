"""Laws on the project itself: its layers, its locks, its example pool, and what none of its files may say."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "spice_select"
GENERATED = {".git", "__pycache__", "build", "dist", "site"}

# What each layer may import directly; it may also import what those import. Data flows pool -> gradients ->
# information -> output. The order of the lines is the order of the layers.
IMPORTS = {
    "errors": set[str](),
    "progress": set[str](),
    "stopwatch": set[str](),
    "amounts": set[str](),
    "constants": set[str](),
    "file_options": set[str](),
    "hub": set[str](),
    "threads": set[str](),
    "information": set[str](),
    "methods": {"constants", "information"},
    "files": {"errors"},
    "distributed": {"files", "information"},
    "validation": {"errors"},
    "option_values": set[str](),
    "run_options": {"amounts", "constants", "file_options", "option_values"},
    "config": {"run_options", "validation"},
    "config_file": {"config"},
    "recipe": {"validation"},
    "pool": {"errors", "files", "file_options"},
    "row_tables": {"files", "pool"},
    "choices": {"information"},
    "doubtful": {"choices"},
    "gradients": {"pool"},
    "proxy": {"files", "distributed", "config", "gradients"},
    "prepared": {"progress", "proxy"},
    "store": {"option_values", "row_tables", "gradients"},
    "schedule": {"stopwatch", "methods", "prepared", "choices", "store"},
    "output": {"config_file", "recipe", "doubtful", "row_tables", "stopwatch"},
    "trainers": {"schedule", "output"},
    "training": {"proxy", "output", "progress"},
    "evaluation": {"proxy", "progress"},
    "report": {"schedule", "doubtful"},
    "api": {"training", "report"},
    "study": {"evaluation", "api"},
    "cli": {"hub", "study"},
}


def _reachable(name: str) -> set[str]:
    return IMPORTS[name].union(*(_reachable(other) for other in IMPORTS[name]))


MAY_IMPORT = {name: _reachable(name) for name in IMPORTS}


def layer(path: Path) -> str:
    """Return the first part of a module's path within the package: a layer's folder or a single module."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_layers(path: Path) -> Iterator[str]:
    """Yield the layers that a module imports, at its top and inside its functions; relative imports are refused."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the import in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "spice_select" and parts[1:] != ["__version__"]:
                yield parts[1] if len(parts) > 1 else "the whole package"


def project_files() -> Iterator[Path]:
    """Yield the project's own files: no environments, caches or results of runs."""
    folders = [ROOT]
    while folders:
        for path in sorted(folders.pop().iterdir()):
            hidden = path.name.startswith(".") and path.name not in {".ci", ".gitignore"}
            if hidden or path.name in GENERATED or path.name.startswith("spice-run") or path.name.endswith(".egg-info"):
                continue
            if path.is_dir():
                folders.append(path)
            else:
                yield path


@pytest.mark.parametrize("module", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_data(module: Path) -> None:
    """A layer imports itself and the layers before it, never one after it, so there is no cycle."""
    own = layer(module)
    if own in {"__init__", "__main__"}:
        return
    forbidden = set(imported_layers(module)) - MAY_IMPORT[own] - {own}
    assert not forbidden, f"{own} may not import {sorted(forbidden)}: move the code, or pass the value in"


def test_nothing_is_decided_by_a_clock() -> None:
    """A clock may jump: the day's time stands only in what people read, and durations come from steady clocks."""
    told = {"files/locks.py", "output/write_run.py"}
    for module in sorted(PACKAGE.rglob("*.py")):
        text = module.read_text(encoding="utf-8")
        found = re.findall(r"\btime\.(?:time|gmtime|localtime|strftime)\(|datetime\.now\(|\.today\(|st_mtime\b", text)
        assert not found or str(module.relative_to(PACKAGE)) in told, f"{module}: {found}"


def test_every_layer_has_a_rule() -> None:
    """A new folder or module of the package must be placed in the order of the layers."""
    found = {layer(path) for path in PACKAGE.rglob("*.py")} - {"__init__", "__main__"}
    assert found == set(MAY_IMPORT)


def test_the_layers_are_ordered() -> None:
    """A layer imports only layers above it in the list, so that there is no cycle."""
    names = list(IMPORTS)
    for name, direct in IMPORTS.items():
        assert direct <= set(names[: names.index(name)]), name


def test_modules_are_short() -> None:
    """A module that outgrows 300 lines has more than one subject."""
    modules = [*PACKAGE.rglob("*.py"), *(ROOT / "examples").rglob("*.py"), ROOT / "make.py"]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in modules}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_no_file_names_a_machine_or_an_index() -> None:
    """A path of one machine or the address of one package index works only where it was written."""
    # Put together from pieces, so that this file passes its own test.
    words = (
        "/wo" + "rk/",
        "/op" + "t/",
        "/ro" + "ot/",
        "pypi." + "org",
        "python" + "hosted",
        "npmjs" + ".",
        "debian." + "org",
    )
    found = []
    for path in project_files():
        if path.suffix in {".png", ".gz", ".parquet"}:
            continue
        text = path.read_text(encoding="utf-8")
        found += [f"{path.relative_to(ROOT)}: {word}" for word in words if word in text]
    assert found == []


def test_the_licence_is_apache_2_word_for_word() -> None:
    """The text is the canonical one of the Apache Software Foundation."""
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


# The set-up -------------------------------------------------------------------------------------------------------


def locked(name: str) -> dict[str, Requirement]:
    """Read a lock file's requirements by name, markers included; each must be pinned and hashed."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    entries = text.replace("\\\n", " ").splitlines()
    assert all("==" in entry and "--hash=sha256:" in entry for entry in entries)
    parsed = [Requirement(entry.split("--hash")[0].strip()) for entry in entries]
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


@pytest.mark.parametrize("name", ["locked.txt", "lowest.txt"])
def test_locks_fit_pyproject(name: str) -> None:
    """Each dependency but torch is locked at a version that pyproject.toml allows: `python3 make.py lock` mends it."""
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [Requirement(text) for text in metadata["project"]["dependencies"]]
    if name == "locked.txt":
        groups = metadata["dependency-groups"]
        wanted += [Requirement(text) for group in ("dev", "docs") for text in groups[group]]
    pins = locked(name)
    for requirement in wanted:
        if requirement.name == "torch":
            continue
        version = str(pins[canonicalize_name(requirement.name)].specifier).removeprefix("==")
        assert requirement.specifier.contains(version), f"{requirement} against {version} in {name}"


@pytest.mark.parametrize("name", ["locked.txt", "lowest.txt"])
def test_locks_bring_no_cuda_and_no_compiler(name: str) -> None:
    """torch comes by a rule of its own, and the embedded proxy's wheel without its C++ dependency."""
    heavy = re.compile(r"torch|triton|nvidia-.*|cuda-.*|llama-cpp-python")
    assert [package for package in locked(name) if heavy.fullmatch(package)] == []
    assert "://" not in (ROOT / "requirements" / name).read_text(encoding="utf-8")


def test_readme_names_commands_that_exist() -> None:
    """Each `make.py` command that a document prints is one that make.py takes."""
    documents = [path for path in project_files() if path.suffix == ".md"]
    named = {word for path in documents for word in re.findall(r"make\.py (\w+)", path.read_text(encoding="utf-8"))}
    usage = subprocess.run(
        [sys.executable, ROOT / "make.py", "--help"], capture_output=True, text=True, check=True
    ).stdout
    offered = re.search(r"\{([\w,]+)\}", usage)
    assert offered is not None
    assert named <= set(offered.group(1).split(","))


# The example pool -------------------------------------------------------------------------------------------------


def example_rows() -> list[dict[str, Any]]:
    """Read examples/pool.jsonl."""
    lines = (ROOT / "examples" / "pool.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def answer(row: dict[str, Any]) -> str:
    """Return a row's last answer."""
    return row["messages"][-1]["content"]


def equations(text: str) -> list[tuple[Fraction, Fraction]]:
    """Find each chain `a op b op c = d` and return its two sides, worked out by hand: products before sums."""
    found = []
    for left, right in re.findall(r"(\d+(?: [-+×÷] \d+)+) = (-?\d+)", text):
        total = Fraction(0)
        for sign, term in re.findall(r"(^|[-+] )(\d+(?: [×÷] \d+)*)", left):
            value = Fraction(1)
            for operator, number in re.findall(r"(^|[×÷] )(\d+)", term):
                value = value / int(number) if operator == "÷ " else value * int(number)
            total += -value if sign == "- " else value
        found.append((total, Fraction(right)))
    return found


def test_the_generator_reproduces_the_pool(tmp_path: Path) -> None:
    """The seeded script writes the shipped file byte for byte."""
    target = tmp_path / "pool.jsonl"
    subprocess.run([sys.executable, ROOT / "examples" / "make_pool.py", target], check=True)
    assert target.read_bytes() == (ROOT / "examples" / "pool.jsonl").read_bytes()


def test_the_pool_holds_what_it_promises() -> None:
    """360 rows, ids unique, no plain question asked twice, chats that alternate and end with the assistant."""
    rows = example_rows()
    assert Counter(row["kind"] for row in rows) == {"plain": 300, "near-duplicate": 36, "contradiction": 24}
    assert len({row["id"] for row in rows}) == len(rows)
    assert {row["source"] for row in rows} == {"word-problems", "code", "facts", "rewriting", "chats"}
    questions = [json.dumps(row["messages"][:-1]) for row in rows if row["kind"] == "plain"]
    assert len(set(questions)) == len(questions)
    for row in rows:
        roles = [message["role"] for message in row["messages"] if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(message["content"].strip() == message["content"] != "" for message in row["messages"])


def test_echoes_refer_to_plain_rows() -> None:
    """A near-duplicate has its original's answer under another question; a contradiction has another answer."""
    rows = {row["id"]: row for row in example_rows()}
    for row in rows.values():
        if row["kind"] == "plain":
            assert row["of"] is None
            continue
        original = rows[row["of"]]
        assert original["kind"] == "plain"
        assert original["source"] == row["source"]
        assert (answer(row) == answer(original)) == (row["kind"] == "near-duplicate")
        if row["kind"] == "near-duplicate":
            assert row["messages"][1] != original["messages"][1], "the question after the system turn"


def test_arithmetic_is_right_where_it_should_be() -> None:
    """Every worked step is right, except in the word problems that contradict another row."""
    for row in example_rows():
        if row["source"] not in {"word-problems", "chats"}:
            continue
        right = [left == value for message in row["messages"] for left, value in equations(message["content"])]
        assert right or row["source"] == "chats", row["id"]
        assert all(right) == (row["kind"] != "contradiction"), row["id"]
