"""Laws of files.atomic: the target holds the old content or the whole new one; nothing else is left."""

import os
import stat
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spice_select.errors import OutputError
from spice_select.files.atomic import new_folder, replacing, write_bytes, write_text


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


@given(content=st.binary(max_size=4096))
def test_bytes_come_back_as_written(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    directory = tmp_path_factory.mktemp("bytes")
    write_bytes(directory / "f", content)
    assert (directory / "f").read_bytes() == content
    assert names(directory) == ["f"]


@pytest.mark.parametrize("text", ["", "a\nb\n", "a\r\nb", "\u2028 é 漢字 \U0001f980"])
def test_text_is_utf8_with_its_own_line_ends(tmp_path: Path, text: str) -> None:
    write_text(tmp_path / "f", text)
    assert (tmp_path / "f").read_bytes() == text.encode("utf-8")


@pytest.mark.parametrize("existing", [None, b"old"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_in_the_middle_leaves_everything_as_it_was(
    tmp_path: Path, existing: bytes | None, error: type[BaseException]
) -> None:
    target = tmp_path / "f"
    if existing is not None:
        target.write_bytes(existing)
    before = names(tmp_path)

    with pytest.raises(error), replacing(target) as temporary:
        temporary.write_bytes(b"half of the new con")
        raise error

    assert names(tmp_path) == before
    assert (target.read_bytes() if target.exists() else None) == existing


@pytest.mark.parametrize("fails", [False, True])
def test_a_folder_takes_its_name_whole_or_not_at_all(tmp_path: Path, fails: bool) -> None:
    target, inside = tmp_path / "model", Path("templates") / "one"
    with suppress(RuntimeError), new_folder(target) as folder:
        assert not target.exists()
        (folder / "templates").mkdir()
        (folder / inside).write_bytes(b"new")
        (folder / inside).chmod(0o600)
        if fails:
            raise RuntimeError
    assert names(tmp_path) == ([] if fails else ["model"])
    if not fails:
        (tmp_path / "any").touch()
        assert (target / inside).read_bytes() == b"new" and names(target) == ["templates"]
        assert (target / inside).stat().st_mode == (tmp_path / "any").stat().st_mode


def test_text_that_cannot_be_encoded_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "f", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "f", "\ud800")
    assert (tmp_path / "f").read_text() == "old"
    assert names(tmp_path) == ["f"]


def test_a_writer_that_removed_its_file_is_an_error_and_leaves_the_target(tmp_path: Path) -> None:
    write_text(tmp_path / "f", "old")
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "f") as temporary:
        temporary.unlink()
    assert (tmp_path / "f").read_text() == "old"


def test_the_temporary_file_lies_beside_the_target(tmp_path: Path) -> None:
    """A rename is atomic only inside one file system, and only a sibling is certain to be in it."""
    with replacing(tmp_path / "f") as temporary:
        assert temporary.parent == tmp_path
        assert not (tmp_path / "f").exists()


@pytest.mark.skipif(os.name == "nt", reason="POSIX permission bits")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_permissions_of_an_ordinary_new_file(tmp_path: Path, umask: int) -> None:
    previous = os.umask(umask)
    try:
        write_text(tmp_path / "ours", "x")
        (tmp_path / "ordinary").write_text("x")
    finally:
        os.umask(previous)
    ours, ordinary = ((tmp_path / name).stat().st_mode for name in ("ours", "ordinary"))
    assert stat.S_IMODE(ours) == stat.S_IMODE(ordinary)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permission bits")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_a_replaced_file_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    target = tmp_path / "f"
    target.write_text("old")
    target.chmod(mode)
    write_text(target, "new")
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == mode


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    """While two contents of different length replace each other, every read returns one of the two, whole."""
    target, contents = tmp_path / "f", (b"a" * 200_000, b"b" * 50_000)
    write_bytes(target, contents[0])
    stop = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not stop.is_set():
            seen.add(target.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(60):
        write_bytes(target, contents[turn % 2])
    stop.set()
    reader.join()
    assert seen <= set(contents)


def test_a_long_file_name_still_works(tmp_path: Path) -> None:
    name = "n" * 250
    write_text(tmp_path / name, "x")
    assert names(tmp_path) == [name]


def test_a_missing_directory_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nowhere"):
        write_text(tmp_path / "nowhere" / "f", "x")


def test_a_directory_in_the_way_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(OutputError, match="is a directory"):
        write_text(tmp_path / "f", "x")
    assert names(tmp_path) == ["f"]
