"""Numbers as a reader sees them: one rounding for page, figures and terminal, and a real minus sign."""

UNKNOWN = "\N{EN DASH}"


def number(value: float | None, digits: int = 3) -> str:
    """A few digits; a dash where the value is unknown."""
    if value is None:
        return UNKNOWN
    form = ",.0f" if abs(value) >= 1000 else ".1e" if 0 < abs(value) < 0.001 else f".{digits}g"
    return with_minus(f"{value:{form}}")


def nats(value: float | None) -> str:
    """Information U, as the terminal rounds it."""
    return UNKNOWN if value is None else with_minus(f"{value:,.2f}")


def share(part: float, whole: float = 1.0) -> str:
    """A percentage; a dash of nothing."""
    return f"{100 * part / whole:.1f}%" if whole else UNKNOWN


def ratio(part: float | None, whole: float | None) -> str:
    """How many times the whole; a dash where either is unknown."""
    return f"{part / whole:.2f}" if part is not None and whole else UNKNOWN


def with_minus(text: str) -> str:
    """A formatted number whose hyphens are minus signs."""
    return text.replace("-", "\N{MINUS SIGN}")
