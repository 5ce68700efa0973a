"""Text from a pool's files on its way to a terminal, which obeys what is not text."""

import re

_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed, and those that change the direction of the text after them."""


def printable(text: str) -> str:
    """`text` with U+FFFD in place of each character that a terminal would obey."""
    return _COMMANDS.sub("\N{REPLACEMENT CHARACTER}", text)
