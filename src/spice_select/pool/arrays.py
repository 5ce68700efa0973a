"""JSON arrays element by element: the text of the file passes through a window and is never there as a whole."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from spice_select.errors import PoolError
from spice_select.pool import streams
from spice_select.pool.problems import one_line
from spice_select.pool.streams import GZIP_ERRORS, broken_gzip, too_long

_PIECE = 1 << 18  # bytes read at once, and again as many as the window holds where that does not suffice
_SPACE = " \t\r\n"
_BOM = "\ufeff"
_LONGEST_WORD = 16  # of JSON: -Infinity, or two \\uXXXX escapes for one character


class Window:
    """Part of a UTF-8 file as text: `text` grows at its end by `more` and shrinks at its beginning by `let_go`."""

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        """`stream` gives the bytes of `path`, from its beginning."""
        self.path, self.text = path, ""
        self._stream = stream
        self._bytes = b""  # read, not decoded: the beginning of a character, or what is no text
        self._ended = False
        self._dropped = self._lines = self._column = 0  # characters let go; their line feeds; those after the last
        self._decoded = self._decoded_lines = 0  # bytes that became text, and line feeds among them

    def more(self) -> bool:
        """Read on; False at the end of the file.

        Raises:
            PoolError: what follows is no UTF-8, or no gzip.

        """
        while not self._ended:
            before = len(self.text)
            self._read(max(_PIECE, before))
            if len(self.text) > before:
                return True
        return False

    def let_go(self, position: int) -> int:
        """Let the text before `position` go once it is much; the new place of that position."""
        if position < _PIECE:
            return position
        gone = self.text[:position]
        lines = gone.count("\n")
        self._column = len(gone) - gone.rfind("\n") - 1 if lines else self._column + len(gone)
        self._dropped, self._lines = self._dropped + len(gone), self._lines + lines
        self.text = self.text[position:]
        return 0

    def line(self, position: int) -> int:
        """The 1-based line of a position."""
        return self._lines + self.text.count("\n", 0, position) + 1

    def place(self, position: int) -> str:
        """A position in the words of the json module."""
        feed = self.text.rfind("\n", 0, position)
        column = position - feed if feed >= 0 else self._column + position + 1
        return f"line {self.line(position)} column {column} (char {self._dropped + position})"

    def after_space(self, position: int) -> int:
        """The next position that is no JSON white space; the end of `text` only at the end of the file."""
        while True:
            while position < len(self.text) and self.text[position] in _SPACE:
                position += 1
            if position < len(self.text) or not self.more():
                return position

    def decode(self, decoder: json.JSONDecoder, start: int) -> tuple[Any, int]:
        """The value that begins at `start`, and where it ends.

        Raises:
            ValueError, RecursionError: as `json.loads`; the value is broken, longer than a row may be, or not over.

        """
        while True:
            try:
                value, end = decoder.raw_decode(self.text, start)
            except ValueError as error:
                enough = len(self.text) - start > streams.ROW_BYTES
                if enough or not may_be_cut(error, self.text) or not self.more():
                    raise
                continue
            if end < len(self.text) or not self.more():  # a number may go on behind the window's end
                return value, end

    def _read(self, size: int) -> None:
        try:
            piece = self._stream.read(size)
        except GZIP_ERRORS as error:
            raise broken_gzip(self.path, 0, error) from error
        first, self._ended = not self._decoded, not piece
        data = self._bytes + piece
        try:
            text, used = codecs.utf_8_decode(data, "strict", self._ended)
        except UnicodeDecodeError as error:
            if error.start == 0:
                raise self._no_text() from error
            text, used = codecs.utf_8_decode(data[: error.start], "strict", True)
        self._bytes = data[used:]
        self._decoded += used
        self._decoded_lines += text.count("\n")
        self.text += text.removeprefix(_BOM) if first else text

    def _no_text(self) -> PoolError:
        return PoolError(
            f"{self.path.name}: invalid UTF-8 at byte {self._decoded + 1} (line {self._decoded_lines + 1}).\n"
            "Save the file as UTF-8."
        )


def may_be_cut(error: ValueError, text: str) -> bool:
    """Whether more text may mend the error: it is at the end, or in an open string or a number of very many digits."""
    if not isinstance(error, json.JSONDecodeError):
        return True
    return error.pos > len(text) - _LONGEST_WORD or error.msg.startswith("Unterminated string")


def elements(window: Window, position: int) -> Iterator[tuple[int, object, str]]:
    """Number, value and text of each element of the array whose first one begins at or after `position`.

    Raises:
        PoolError: damage, with its row: nothing after it can be read.

    """
    decoder = json.JSONDecoder()
    number = 0
    position = window.after_space(position)
    if window.text.startswith("]", position):
        return _refuse_more(window, position + 1, number)
    while True:
        number += 1
        start = window.after_space(window.let_go(position))
        try:
            value, end = window.decode(decoder, start)
        except (ValueError, RecursionError) as error:
            raise _broken_element(window, start, number, error) from error
        if end - start > streams.ROW_BYTES:
            raise _long_element(window, number)
        yield number, value, window.text[start:end]
        position = window.after_space(end)
        if window.text.startswith("]", position):
            return _refuse_more(window, position + 1, number)
        if not window.text.startswith(",", position):
            raise PoolError(
                f"{window.path.name}, row {number}: broken JSON: ',' or ']' expected after it "
                f"(line {window.line(position)}).\nNothing after it can be read; mend the file there."
            )
        position += 1


def _long_element(window: Window, number: int) -> PoolError:
    return PoolError(f"{window.path.name}, row {number}: {too_long('it')}.\nShorten it, or leave it out.")


def _broken_element(window: Window, start: int, number: int, error: ValueError | RecursionError) -> PoolError:
    reason, long = str(error), len(window.text) - start > streams.ROW_BYTES
    if long and isinstance(error, ValueError) and may_be_cut(error, window.text):
        return _long_element(window, number)
    if isinstance(error, json.JSONDecodeError):
        reason = f"{error.msg}: {window.place(error.pos)}"
    return PoolError(
        f"{window.path.name}, row {number}: broken JSON: {one_line(reason)}.\n"
        "Nothing after it can be read; mend the file there."
    )


def _refuse_more(window: Window, position: int, number: int) -> None:
    """See that nothing but white space follows the array, which ends at `position`."""
    while not window.text[position:].strip():
        position = window.let_go(len(window.text))
        if not window.more():
            return
    raise PoolError(f"{window.path.name}: text follows the end of the JSON array (after row {number}).\nRemove it.")
