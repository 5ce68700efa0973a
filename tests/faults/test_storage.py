"""Full and read-only disks, two writers: the right message, nothing lost, and the same result once corrected.

On disks of their own (tmpfs) where the system lets them be mounted; a limit on the size of files stands in elsewhere.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from oracles.runs import chat_rows, read_jsonl, write_jsonl
from oracles.small_disk import small_disk
from spice_select import Recipe, compute_gradients, finetune, pick, select
from spice_select.errors import OutputError
from spice_select.files.locks import sole_writer
from spice_select.progress import NoProgress

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
POOLS = {"candidates": 30, "update_every": 1, "update_batch_size": 4, "lora_rank": 2, "budget": "20%"}
WHOLE = {"dim": 64, "lora_rank": 2, "warmup_steps": 1}


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", 4) as found:
        if found is None:
            pytest.skip("no tmpfs can be mounted here")
        yield found


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("pool") / "p.jsonl", chat_rows(90))


class Notes(NoProgress):
    """Collects a command's notes."""

    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


def grow_until(work, disk, start_kib, factor):
    """Call `work` on an ever larger disk; the first lines of its errors. Each must name what could not be written."""
    stages, kib = [], start_kib
    while True:
        disk.resize(round(kib))
        try:
            work()
        except OutputError as error:
            lines = str(error).splitlines()
            assert "No space left on device" in lines[0] and str(disk.place) in lines[0], error
            assert len(lines) <= 3 and "Make room" in str(error), error
            assert not list(disk.place.rglob(".spice-*.tmp")), "what was half written takes no room"
            stages.append(lines[0].split(":")[0])
        else:
            return stages
        kib = max(kib * factor, kib + 4)


def chosen(directory):
    return [row["id"] for row in read_jsonl(directory / "selected.jsonl")]


def test_a_run_on_a_full_disk_goes_on_at_every_stage(disk, tmp_path, tiny_model, pool):
    place, notes = disk.place / "run", Notes()
    expected = chosen(select(pool, model=tiny_model, output=tmp_path / "whole", **POOLS).output)

    def go_on():
        begun = (place / "checkpoint" / "identity.json").exists()
        select(pool, model=tiny_model, output=place, existing="resume" if begun else "refuse", progress=notes, **POOLS)

    stages = [Path(stage).name for stage in grow_until(go_on, disk, 8, 1.25)]
    assert chosen(place) == expected
    assert any(stage.startswith("proxy-") for stage in stages) and len(set(stages)) >= 4, stages
    # The page is larger than all else: a choice without it is complete, and told so.
    failed = "is complete, but its report could not be written"
    assert any(failed in note and "No space left" in note for note in notes.said)


def test_gradients_and_a_pick_on_a_full_disk_go_on(disk, tmp_path, tiny_model):
    pool = write_jsonl(tmp_path / "p.jsonl", chat_rows(600))
    whole = compute_gradients(pool, model=tiny_model, output=tmp_path / "whole", **WHOLE)
    stages = grow_until(
        lambda: compute_gradients(pool, model=tiny_model, output=disk.place / "s", **WHOLE), disk, 32, 1.7
    )
    assert {"shards", "s"} <= {Path(stage).parent.name for stage in stages}, stages
    for name in ("manifest.json", "rows.parquet"):
        assert (disk.place / "s" / name).read_bytes() == (whole.path / name).read_bytes()

    used = sum(path.stat().st_blocks for path in (disk.place / "s").rglob("*")) // 2
    target = disk.place / "chosen"

    def choose():
        pick(disk.place / "s", budget="20", output=target, existing="overwrite" if target.exists() else "refuse")

    grow_until(choose, disk, used + 24, 1.5)
    assert chosen(target) == chosen(pick(whole, budget="20", output=tmp_path / "chosen").output)


def test_a_checkpoint_that_does_not_fit_leaves_the_earlier_one(disk, tmp_path, tiny_model, pool):
    disk.resize(2000)
    options = {"model": tiny_model, "recipe": Recipe(epochs=1, batch_size=45)}
    finetune(pool, output=disk.place / "tuned", **options)
    before = {path: path.read_bytes() for path in (disk.place / "tuned").iterdir()}
    (disk.place / "ballast").write_bytes(bytes(1024 * (os.statvfs(disk.place).f_bavail * 4 - 8)))
    with pytest.raises(OutputError, match=r"(?s)No space left on device"):
        finetune(pool, output=disk.place / "tuned", existing="overwrite", **options)
    assert {path: path.read_bytes() for path in (disk.place / "tuned").iterdir()} == before


def test_files_that_may_not_grow_are_told_like_a_full_disk(tmp_path, tiny_model, pool):
    """`ulimit -f`, which needs no right to mount anything."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # noqa: E731
    command = [sys.executable, "-m", "spice_select", "run", pool, "--model", tiny_model, "--output", tmp_path / "r"]
    done = subprocess.run(
        [*map(str, command), "--candidates", "30", "--lora-rank", "2"],
        env=ENVIRONMENT, capture_output=True, text=True, preexec_fn=limit, timeout=120,
    )  # fmt: skip
    error = done.stderr[done.stderr.index("spice-select:") :]
    assert done.returncode == 2 and "File too large" in error and len(error.splitlines()) <= 3, done.stderr
    assert not list((tmp_path / "r").rglob(".spice-*.tmp"))


@contextmanager
def as_nobody(folder):
    """In the block, permissions bind this process even if it runs as root."""
    if os.geteuid() != 0:
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_lost_permission_stops_a_run_and_loses_nothing(tmp_path, tiny_model, pool):
    # First, so that all modules are loaded: not every user can read where Python lies.
    expected = chosen(select(pool, model=tiny_model, output=tmp_path / "whole", **POOLS).output)
    with tempfile.TemporaryDirectory() as scratch:
        inputs = shutil.copytree(tiny_model, Path(scratch) / "in")
        shutil.copy(pool, inputs)
        with as_nobody(Path(scratch)):
            assert stopped_by_a_lost_permission(inputs, inputs / pool.name, Path(scratch) / "r") == expected


def stopped_by_a_lost_permission(model, pool, place):
    """The rows chosen in the end."""
    options = {"model": str(model), "output": place, **POOLS}

    class Turn(NoProgress):
        """Takes the right to write away when the first pool is done."""

        def advance(self, rows, tokens):
            if (place / "checkpoint" / "pool-000000.json").exists():
                (place / "checkpoint").chmod(0o500)

    with pytest.raises(OutputError, match=r"(?s)Permission denied.*(write permission|may write to)") as told:
        select(pool, progress=Turn(), **options)
    assert str(place) in str(told.value) and len(str(told.value).splitlines()) <= 3
    (place / "checkpoint").chmod(0o700)
    return chosen(select(pool, existing="resume", **options).output)


def test_nothing_is_computed_for_an_output_that_cannot_be_written(disk, tiny_model, pool):
    disk.forbid_writing()
    notes = Notes()
    for work in (select, compute_gradients):
        with pytest.raises(OutputError, match="Read-only file system"):
            work(pool, model=tiny_model, output=disk.place / "r", progress=notes, lora_rank=2)
    with pytest.raises(OutputError, match="Read-only file system"):
        finetune(pool, model=tiny_model, output=disk.place / "r")
    assert not any("loss" in said or "forecast" in said for said in notes.said)


def test_a_second_writer_is_told_who_the_first_is_and_a_dead_one_holds_nothing(tmp_path, tiny_model):
    pool = write_jsonl(tmp_path / "p.jsonl", chat_rows(800))
    place = tmp_path / "r"
    arguments = {"model": tiny_model, "output": place, "candidates": 10, "budget": "20%", "lora_rank": 2}
    command = ["run", pool, "--model", tiny_model, "--output", place, "--candidates", "10", "--budget", "20%"]
    first = subprocess.Popen(
        [sys.executable, "-m", "spice_select", *map(str, command), "--lora-rank", "2"],
        env=ENVIRONMENT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (place / "checkpoint" / "pool-000001.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    for existing in ("resume", "overwrite"):
        with pytest.raises(OutputError, match=rf"process {first.pid} on .* \(since .*is writing there"):
            select(pool, existing=existing, **arguments)
    with pytest.raises(OutputError, match="unfinished run"):
        select(pool, **arguments)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = len(list((place / "checkpoint").glob("pool-*.json")))
    with pytest.raises(EnoughError):
        select(pool, existing="resume", progress=UntilResumed(kept), **arguments)
    assert not (place / ".spice-lock").exists()


def test_a_lock_whose_holder_has_just_removed_it_lets_one_writer_in(tmp_path):
    """Between open and lock the file may be replaced: a lock on the old file must not count."""
    inside, most, wrong = [], [0], []

    def write():
        for _ in range(60):
            try:
                with sole_writer(tmp_path):
                    inside.append(1)
                    most[0] = max(most[0], len(inside))
                    time.sleep(0.0005)
                    inside.pop()
            except OutputError as error:
                wrong.append(error)

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1 and all("is writing there" in str(error) for error in wrong)


def test_a_checkpoint_whose_move_was_cut_is_completed(tmp_path, tiny_model, pool, monkeypatch):
    options = {"model": tiny_model, "output": tmp_path / "tuned", "recipe": Recipe(epochs=1, batch_size=45)}
    finetune(pool, **options)
    move = Path.rename
    moved = []

    def cut(path, target):
        if Path(target).parent == tmp_path / "tuned" and not Path(target).name.startswith("."):
            moved.append(target)
        if len(moved) == 2:
            raise KeyboardInterrupt
        return move(path, target)

    monkeypatch.setattr(Path, "rename", cut)
    with pytest.raises(KeyboardInterrupt):
        finetune(pool, existing="overwrite", **options)
    monkeypatch.undo()
    assert not (tmp_path / "tuned" / "finetune.json").exists()
    with pytest.raises(OutputError, match="holds a checkpoint; --overwrite replaces it"):
        finetune(pool, **options)
    assert not list((tmp_path / "tuned").glob(".spice-*"))


class EnoughError(Exception):
    """The command reported what it waited for."""


class UntilResumed(NoProgress):
    """Ends a run once it has reported how many pools it resumes from."""

    def __init__(self, kept):
        self.awaited = f"resuming: {kept} of"

    def note(self, text):
        if text.startswith(self.awaited):
            raise EnoughError
