"""The attributes of fastcore's elements (FT), which decide how an element can be copied."""

from __future__ import annotations

from typing import Final

from fastcore.xml import FT

__all__ = ["knows_elements"]

_HELD: Final = {"tag", "children", "attrs", "void_", "listeners_"}


def knows_elements() -> bool:
    """Tell whether an element holds what is known here, and nothing else.

    If not, FastHTML copies the headers of each page by `copy.deepcopy`: 109 of a small page's 1,000 µs instead of 20.
    """
    return bool(vars(FT("p", (), {})).keys() == _HELD)
