"""HTML and SVG as trees, so that no text can become markup. What an episode says is not to be trusted."""

from __future__ import annotations

import base64
import hashlib
import re
import xml.etree.ElementTree as ET
from xml.etree.ElementTree import Element

__all__ = ["Element", "document", "element", "readable"]

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def element(tag: str, *children: Element | str | None, **attributes: object) -> Element:
    """An element. ``class_`` and ``stroke_width`` become ``class`` and ``stroke-width``; None is left out."""
    made = Element(
        tag,
        {
            name.rstrip("_").replace("_", "-"): readable(str(value))
            for name, value in attributes.items()
            if value is not None
        },
    )
    last: Element | None = None
    for child in children:
        if isinstance(child, str):
            if last is None:
                made.text = (made.text or "") + readable(child)
            else:
                last.tail = (last.tail or "") + readable(child)
        elif child is not None:
            made.append(child)
            last = child
    return made


def readable(text: str) -> str:
    """The text without what a page cannot hold: control characters and halves of characters."""
    return _UNPRINTABLE.sub("\ufffd", text)


def document(title: str, *, style: str, script: str, body: Element) -> str:
    """A whole page that loads nothing and runs nothing but ``script``, whatever is in it."""
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri 'none'; "
        "form-action 'none'; img-src data:"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="generator", content="envmesh report"),
        element("title", title),
    )
    for tag, text in (("style", style), ("script", script)):
        raw = Element(tag)  # its text is ours, and is written as it is
        raw.text = text
        (head if tag == "style" else body).append(raw)
    page = element("html", head, body, lang="en")
    return "<!doctype html>\n" + ET.tostring(page, encoding="unicode", method="html") + "\n"


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
