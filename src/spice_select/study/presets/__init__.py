"""Studies that come with the program, as YAML."""

from importlib.resources import files

PRESETS = ("paper",)


def preset_text(name: str) -> str:
    """The YAML of a preset."""
    return (files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")
