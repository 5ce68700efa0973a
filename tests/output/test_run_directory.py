"""Laws of a run's directory: its state is decided once, nothing in it changes before `begin`, one command writes."""

import json
import os
import threading
from pathlib import Path

import pytest

from oracles.commands import snapshot
from spice_select.errors import OutputError
from spice_select.files.directory import clear, inspect_output, opened_run

RUN = {"manifest.json": json.dumps({"format": "spice-select run"}), "checkpoint/identity.json": "{}"}


def fill(directory: Path, files: dict[str, str]) -> Path:
    """Write `files` below `directory`."""
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


def begin(directory: Path, existing: str) -> str:
    """Begin a run in `directory`; returns its state."""
    with opened_run(directory, existing) as opened:
        opened.begin(lambda: fill(directory, {"checkpoint/identity.json": "own"}) and None, lambda: None)
        return opened.state


def test_a_run_that_fails_before_it_begins_leaves_nothing(tmp_path):
    before = snapshot(tmp_path)
    with pytest.raises(RuntimeError), opened_run(tmp_path / "a" / "b", "refuse") as opened:
        assert opened.state == "new" and (tmp_path / "a" / "b" / ".spice-lock").exists()
        raise RuntimeError
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("existing", ["resume", "overwrite"])
def test_a_run_that_is_there_is_untouched_until_begin(tmp_path, existing):
    place = fill(tmp_path / "run", {**RUN, ".spice-0.tmp": "half"})
    (place / "manifest.json").unlink()
    before = snapshot(place)
    with pytest.raises(RuntimeError), opened_run(place, existing):
        raise RuntimeError
    assert snapshot(place) == before
    assert begin(place, existing) == ("begun" if existing == "resume" else "new")
    expected = {"resume": "{}", "overwrite": "own"}[existing]
    assert snapshot(place) == {"checkpoint": None, "checkpoint/identity.json": expected.encode()}


def test_a_complete_run_is_resumed_without_a_write(tmp_path):
    place = fill(tmp_path / "run", RUN)
    before = snapshot(place)
    with opened_run(place, "resume") as opened:
        assert opened.state == "complete" and snapshot(place) == before
        opened.begin(lambda: pytest.fail("a complete run was started again"), lambda: None)
    assert snapshot(place) == before
    with pytest.raises(OutputError, match="holds a finished run"):
        begin(place, "refuse")
    assert snapshot(place) == before


def test_a_run_of_other_settings_is_refused_before_anything_changes(tmp_path):
    place = fill(tmp_path / "run", {"checkpoint/identity.json": "{}", ".spice-0.tmp": "half"})
    before = snapshot(place)

    def verify():
        raise OutputError("other settings")

    with opened_run(place, "resume") as opened, pytest.raises(OutputError, match="other settings"):
        opened.begin(lambda: None, verify)
    assert snapshot(place) == before


def test_the_lock_is_held_from_the_start_and_names_its_holder(tmp_path):
    with (
        opened_run(tmp_path / "run", "refuse"),
        pytest.raises(OutputError, match=f"process {os.getpid()} on .* is writing there"),
        opened_run(tmp_path / "run", "refuse"),
    ):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("left", [{}, {".spice-lock": "dead"}, {"checkpoint/.spice-1.tmp": ""}, {".spice-1.tmp": ""}])
def test_what_a_kill_leaves_at_the_very_start_is_no_obstacle(tmp_path, left):
    (tmp_path / "run").mkdir()
    fill(tmp_path / "run", left)
    assert begin(tmp_path / "run", "refuse") == "new"


def test_a_kill_at_any_moment_of_clear_leaves_an_unfinished_run_or_none(tmp_path, monkeypatch):
    """A kill after each removal in turn."""
    files = {**RUN, "selected.jsonl": "", "figures/gain.svg": "", "tokens/axolotl/rows/state.json": "{}"}
    files |= {"checkpoint/gradients/manifest.json": "{}"} | {f"checkpoint/pool-00000{i}.json": "{}" for i in range(3)}

    class KilledError(Exception):
        pass

    remove, states = Path.unlink, []
    for allowed in range(40):
        place, calls = fill(tmp_path / str(allowed), files), []

        def unlink(path, missing_ok=False, calls=calls, allowed=allowed):
            calls.append(path)
            if len(calls) > allowed:
                raise KilledError
            remove(path, missing_ok=missing_ok)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", unlink)
            try:
                clear(place)
            except KilledError:
                states.append(inspect_output(place, "resume"))
            else:
                assert list(place.iterdir()) == []
                break
    assert set(states[1:]) == {"begun"} and states[0] == "complete"


def test_processes_of_one_run_change_the_directory_when_all_have_verified_it(tmp_path):
    """The main process starts the run; the others find it started."""
    place, barrier, seen = tmp_path / "run", threading.Barrier(3), []

    def process(rank):
        wait = lambda: barrier.wait(30) and None  # noqa: E731
        with opened_run(place, "refuse", main=rank == 0, wait=wait) as opened:
            seen.append(opened.state)
            opened.begin(
                lambda: fill(place, {"checkpoint/identity.json": "own"}) and None,
                lambda: seen.append((place / "checkpoint" / "identity.json").read_text()),
            )
            barrier.wait(30)

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == ["new"] * 3 + ["own"] * 3
