"""Errors a user can meet. Each message says what is wrong, where, and what to do about it, in one to three lines."""

import reprlib

REPEAT = "repeat the same command (`run` with --resume, `pick` and `evaluate` with --overwrite if they began to write)"
"""How to go on after a command has stopped: `run`, `gradients` and `study` then continue, all others start anew."""

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 80, 80


def shown(value: object) -> str:
    """A user's value as a message shows it: short whatever it holds."""
    try:
        return _SHORT.repr(value)[:200]
    except ValueError:  # Python writes no number of more than 4,300 digits
        return f"a very long {type(value).__name__}"


class SpiceSelectError(Exception):
    """Base of every error that the user can fix; the command line prints it and exits with code 2."""


class ConfigError(SpiceSelectError):
    """An option is unknown, out of range, or does not fit another."""


class PoolError(SpiceSelectError):
    """The instruction pool cannot be read, or holds rows that cannot be trained on."""


class TemplateError(SpiceSelectError):
    """A chat template does not determine which tokens are the assistant's."""


class ModelError(SpiceSelectError):
    """The proxy model or its tokenizer cannot be found or used."""


class ProcessError(SpiceSelectError):
    """The processes of a launch cannot connect, or one of them was lost."""


class NotFiniteError(ModelError):
    """A loss or a gradient that is not finite."""


class OutputError(SpiceSelectError):
    """The output directory cannot be written, exists already, or belongs to another run."""


class NoRoomError(OutputError):
    """The disk is full."""
