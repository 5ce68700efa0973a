"""Text from a pool's files on its way to a terminal, which obeys some characters and cannot be sent others."""

import re

_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line feed, what changes the direction of the text after it, and halves of pairs."""


def printable(text: str) -> str:
    """`text` with U+FFFD in place of each character that is no text to a terminal."""
    return _COMMANDS.sub("\N{REPLACEMENT CHARACTER}", text)
