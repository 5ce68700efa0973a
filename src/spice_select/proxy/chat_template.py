"""A chat template that the user names, in place of the tokenizer's: a file, or one that TRL ships."""

import difflib
import re
from importlib.util import find_spec
from pathlib import Path

from spice_select.errors import ConfigError
from spice_select.pool.problems import one_line


def read_chat_template(name: str) -> str:
    """The template in the Jinja file `name`, or the one that TRL ships under this name.

    Raises `ConfigError` if there is neither, or the file cannot be read.
    """
    if "{%" in name or "{{" in name:
        raise ConfigError("chat_template: this is the text of a template; write it to a file and name that.")
    path = _file(name)
    if path is not None:
        return _text(path, name)
    shipped = _shipped()
    if re.fullmatch(r"\w+", name) and name in shipped:
        return _text(shipped[name], name)
    close = difflib.get_close_matches(name, shipped, n=3)
    known = f"did you mean {' or '.join(close)}?" if close else "TRL ships templates such as qwen3_training."
    if not shipped:
        known = "the templates that TRL ships need pip install 'trl>=1.4'."
    raise ConfigError(
        f"chat_template: there is no file '{one_line(name, 80)}', and no template of that name in TRL; {known}"
    )


def _file(name: str) -> Path | None:
    try:
        path = Path(name).expanduser()
        return path if path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # too long for a name, an unknown user's home, a null character
        return None


def _text(path: Path, name: str) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"chat_template: {name} cannot be read as text ({error}).") from error
    if not text.strip():
        raise ConfigError(f"chat_template: {name} is empty.")
    return text


def _shipped() -> dict[str, Path]:
    """Names and files of the templates that the installed TRL ships; TRL itself is not imported, which is slow."""
    found = find_spec("trl")
    folders = [] if found is None else found.submodule_search_locations or []
    return {path.stem: path for folder in folders for path in sorted(Path(folder).glob("chat_templates/*.jinja"))}
