"""JSON arrays read element by element: only the part of the file that is being parsed is in memory."""

import codecs
import json
import re
from collections.abc import Iterator

from spice_select.errors import PoolError
from spice_select.pool import streams
from spice_select.pool.problems import one_line
from spice_select.pool.streams import PoolFile, too_long

_PIECE = 1 << 18  # fewest bytes read at once
_NO_SPACE = re.compile(r"[^ \t\r\n]")
_LONGEST_WORD = 16  # characters of JSON that only count together: -Infinity, or two \uXXXX escapes of one character


class JsonText:
    """A UTF-8 file with a place in it, from which JSON values are read one after another."""

    def __init__(self, file: PoolFile) -> None:
        self._file, self._name = file, file.path.name
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._json = json.JSONDecoder()
        self._text, self._at = "", 0  # the part in memory, and the place in it
        self._line = self._column = 1  # of the first character of that part
        self._bytes, self._ended = 0, False  # bytes read so far

    def peek(self) -> str:
        """Move to the next character that is no white space and return it; "" at the end of the file."""
        while True:
            found = _NO_SPACE.search(self._text, self._at)
            self._at = found.start() if found else len(self._text)
            if found or not self._read_on():
                return self._text[self._at : self._at + 1]

    def skip(self, character: str) -> bool:
        """Move behind `character` if it comes next."""
        found = self.peek() == character
        self._at += found
        return found

    def value(self, row: int) -> tuple[object, str]:
        """The JSON value at the place, which moves behind it, and its text.

        Raises `PoolError`, which names the row, if it is broken, cut short, or longer than a row may be.
        """
        self.peek()
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                self._extend(row, error)
                continue
            if end < len(self._text) or not self._read_on():  # a number may go on behind the part in memory
                break
        text, self._at = self._text[self._at : end], end
        if len(text) > streams.ROW_BYTES:
            raise self._too_long(row)
        return value, text

    def elements(self) -> Iterator[tuple[int, object, str]]:
        """Number, value and text of each element of the array whose "[" was just skipped.

        Damage is a `PoolError` that names its row: nothing after it can be read.
        """
        number, closed = 0, self.skip("]")
        while not closed:
            number += 1
            yield number, *self.value(number)
            closed = self.skip("]")
            if not closed and not self.skip(","):
                raise self._broken(number, f"',' or ']' expected after it (line {self._position(self._at)[0]})")
        if self.peek():
            raise PoolError(f"{self._name}: text follows the end of the JSON array (after row {number}).\nRemove it.")

    def _broken(self, row: int, reason: str) -> PoolError:
        return PoolError(
            f"{self._name}, row {row}: broken JSON: {one_line(reason)}.\n"
            "Nothing after it can be read; correct the file there."
        )

    def _extend(self, row: int, error: ValueError | RecursionError) -> None:
        """Read on if the value may be cut off: if the error is at the end, in an open string or a very long number."""
        reason, cut = str(error), isinstance(error, ValueError)
        if isinstance(error, json.JSONDecodeError):
            reason = "{}: line {} column {}".format(error.msg, *self._position(error.pos))
            cut = error.pos > len(self._text) - _LONGEST_WORD or error.msg.startswith("Unterminated string")
        if cut and len(self._text) - self._at > streams.ROW_BYTES:
            raise self._too_long(row) from error
        if not cut or not self._read_on():
            raise self._broken(row, reason) from error

    def _too_long(self, row: int) -> PoolError:
        return PoolError(f"{self._name}, row {row}: {too_long('it')}.\nShorten it, or leave it out.")

    def _position(self, at: int) -> tuple[int, int]:
        """1-based line and column of a place in the part in memory."""
        feeds = self._text.count("\n", 0, at)
        column = at - self._text.rfind("\n", 0, at) if feeds else self._column + at
        return self._line + feeds, column

    def _read_on(self) -> bool:
        """Read more text and drop what lies before the place; False at the end of the file."""
        while not self._ended:
            piece = self._file.read(max(_PIECE, len(self._text)))
            self._bytes, self._ended = self._bytes + len(piece), not piece
            try:
                text = self._utf8.decode(piece, final=self._ended)
            except UnicodeDecodeError as error:
                raise self._not_utf8(error) from error
            if text:
                self._line, self._column = self._position(self._at)
                self._text, self._at = self._text[self._at :] + text, 0
                return True
        return False

    def _not_utf8(self, error: UnicodeDecodeError) -> PoolError:
        place = self._bytes - len(error.object) + error.start + 1
        line = self._position(len(self._text))[0] + error.object.count(b"\n", 0, error.start)
        return PoolError(f"{self._name}: invalid UTF-8 at byte {place} (line {line}).\nSave the file as UTF-8.")
