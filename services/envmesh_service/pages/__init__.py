"""What the project's pages share: one palette, light and dark, and the reading of their files."""

from __future__ import annotations

from importlib import resources

__all__ = ["page_file"]


def page_file(package: str, name: str) -> str:
    """The text of a file that comes with a package. ``base.css`` of this one holds the palette."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")
