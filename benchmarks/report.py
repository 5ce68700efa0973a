"""Sections of benchmarks/RESULTS.md, each written by the program that measured it."""

import datetime
import os
import platform
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

RESULTS = Path(__file__).with_name("RESULTS.md")
HEAD = "# Results\n\nWritten by the programs in this folder; do not edit by hand.\n"


def machine(device: torch.device) -> str:
    """Return one line that says what was measured on what, and when."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return (
        f"{date}, {name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}."
    )


def on(title: str, device: torch.device) -> str:
    """A section of its own for what was measured on a GPU."""
    return f"{title}, on a GPU" if device.type == "cuda" else title


def spread(values: Sequence[float]) -> str:
    """Median, least and most of repeated ratios."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def write_section(title: str, program: str, lines: list[str]) -> None:
    """Replace the section `title`, or add it."""
    section = "\n".join([f"## {title}", "", f"By `benchmarks/{program}`.", "", *lines]).rstrip() + "\n"
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else HEAD
    pattern = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.S | re.M)
    kept = pattern.sub("", text).rstrip() + "\n"
    RESULTS.write_text(f"{kept}\n{section}", encoding="utf-8")
    print("\n".join(lines))


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found[1] if found else platform.processor() or platform.machine()
