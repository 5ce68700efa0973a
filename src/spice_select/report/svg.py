"""An SVG file as text for an HTML page whose content security policy allows no inline style.

Contract: no prolog, metadata, style element or style attribute, no colour but those of the page's CSS variables, the
page's own font, and ids that begin with the figure's name, so that several figures on one page do not clash.
"""

import re
from collections.abc import Mapping
from xml.etree import ElementTree

_SVG = "http://www.w3.org/2000/svg"
_REFERENCE = re.compile(r"^(?:url\()?#([^)]+)\)?$")


def inline(text: str, name: str, title: str, variables: Mapping[str, str]) -> str:
    """Turn what matplotlib wrote into an element of a page.

    Args:
        text: an SVG document.
        name: begins every id.
        title: what a screen reader says.
        variables: CSS variable of each colour in the document.

    """
    root = ElementTree.fromstring(text)  # noqa: S314  the text is matplotlib's
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in {"metadata", "style"}:
                parent.remove(child)
    elements = list(root.iter())
    for element in elements:
        _plain_names(element)
        _style_to_attributes(element, variables)
    _name_ids(elements, name)
    _describe(root, f"{name}-title", title)
    return ElementTree.tostring(root, encoding="unicode")


def _plain_names(element: ElementTree.Element) -> None:
    """Drop namespaces: the root names the only one that HTML needs."""
    element.tag = _local(element.tag)
    attributes = {_local(key): value for key, value in element.attrib.items()}
    element.attrib.clear()
    element.attrib.update(attributes)


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _style_to_attributes(element: ElementTree.Element, variables: Mapping[str, str]) -> None:
    """Each declaration as a presentation attribute, of fonts the size and weight alone; and colours as variables."""
    for declaration in element.attrib.pop("style", "").split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font":
            element.attrib["font-size"] = _font_size(value)
            if re.search(r"\b(bold|[6-9]00)\b", value):
                element.attrib["font-weight"] = "bold"
        elif key and key != "font-family":
            element.attrib[key] = value
    for key, value in element.attrib.items():
        element.attrib[key] = variables.get(value, value)


def _font_size(shorthand: str) -> str:
    found = re.search(r"[\d.]+px", shorthand)
    return found.group() if found else "10px"


def _name_ids(elements: list[ElementTree.Element], name: str) -> None:
    """Put the name before each id that something refers to, and drop the others."""
    wanted: set[str] = set()
    for element in elements:
        for key, value in element.attrib.items():
            found = _REFERENCE.match(value)
            if found:
                wanted.add(found[1])
                element.attrib[key] = value.replace("#", f"#{name}-", 1)
    for element in elements:
        own = element.attrib.pop("id", None)
        if own in wanted:
            element.attrib["id"] = f"{name}-{own}"


def _describe(root: ElementTree.Element, identity: str, title: str) -> None:
    """Name the picture, and let it be as wide as its place."""
    root.attrib.pop("height", None)
    root.attrib.pop("version", None)
    root.attrib.update(
        {
            "xmlns": _SVG,
            "width": "100%",
            "role": "img",
            "aria-labelledby": identity,
            "stroke-linejoin": "round",
            "stroke-linecap": "butt",
        }
    )
    heading = ElementTree.Element("title", {"id": identity})
    heading.text = title
    root.insert(0, heading)
