"""What the processes of a launch share lies in one directory, which every host must see: checked before work starts."""

import secrets
import socket
import time
from contextlib import nullcontext
from pathlib import Path

from spice_select.distributed.process_group import all_gather_texts, barrier
from spice_select.errors import OutputError
from spice_select.files.directory import created, ensure_writable
from spice_select.information.ranks import Ranks

PATIENCE = 30.0
"""Seconds that a network file system may take until every host sees a new file."""


def check_shared(ranks: Ranks, directory: Path) -> None:
    """Raise `OutputError` in every process unless all see the same `directory`; all of them must call this.

    The first process writes a file with a random name there, for which the others look. A directory that did not exist
    does not exist afterwards.
    """
    if ranks.size == 1:
        return
    token = directory / f".spice-{all_gather_texts(ranks, secrets.token_hex(8))[0]}.tmp"
    with created(directory) if ranks.rank == 0 else nullcontext():
        if ranks.rank == 0:
            ensure_writable(directory)
            token.touch()
        try:
            barrier(ranks)
            host = socket.gethostname()
            found = all_gather_texts(ranks, f"{int(_appears(token))}{host}")
        finally:
            if ranks.rank == 0:
                token.unlink(missing_ok=True)
    barrier(ranks)  # before anyone makes the directory anew
    if blind := dict.fromkeys(text[1:] for text in found if text[0] == "0"):
        raise OutputError(
            f"{directory}: {', '.join(blind)} does not see what {found[0][1:]} writes there, so these are two.\n"
            "Give an --output that all hosts of the launch share, on NFS or Lustre for instance, by its full path."
        )


def _appears(path: Path) -> bool:
    """Whether the file is there before the patience ends."""
    end = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
