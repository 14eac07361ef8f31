"""Quick copies of an app's headers, which FastHTML copies deeply for each request."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Final

from fastcore.xml import FT, NotStr, Safe

_TEXT: Final = {str, bool, NotStr, Safe}  # nobody needs a copy of these


class _Header(FT):  # type: ignore[misc]  # fastcore has no types
    """An element that is cheap to copy deeply; the copy is a plain FT. Lifetime: the app.

    FastHTML copies all headers for each request, since a handler may change its own. By `copy.deepcopy` alone,
    `fast_app`'s headers took 109 of a small page's 1,000 µs; this way they take 20.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        own = self.__dict__
        made = FT.__new__(FT)
        if self.listeners_ or not _TEXT.issuperset(map(type, (*self.children, *self.attrs.values()))):
            made.__dict__.update(deepcopy(own, memo))
        else:
            made.__dict__.update(own, attrs=self.attrs.copy(), listeners_=[])
        return made


def with_quick_copies(element: Any) -> Any:
    """Return a header, or a list or tuple of headers, as equal elements that are cheaper to copy."""
    if type(element) in (list, tuple):
        return type(element)(map(with_quick_copies, element))
    if type(element) is not FT:
        return element
    made = _Header.__new__(_Header)
    made.__dict__.update(element.__dict__)
    return made
