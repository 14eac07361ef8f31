"""Views: methods that render a state, and the fragments they leave in a page, which follow the state."""

from __future__ import annotations

import copy
from collections.abc import Callable
from html import escape
from inspect import Parameter, signature
from typing import Any, overload

from fastcore.xml import FT, NotStr, Safe, to_xml

from ..exceptions import EventDefinitionError
from ..wire.frames import VIEW_ATTRIBUTE


def quoted(value: str) -> str:
    """Write `value` (str) for an attribute between single quotes, of which JSON has few."""
    return escape(value, quote=False).replace("'", "&#39;")


def attribute(name: str, value: str) -> str:
    """Write one attribute of an element (str) as FT does: no text in `value` ends it."""
    return f"{name}='{quoted(value)}'" if '"' in value else f'{name}="{escape(value, quote=False)}"'


def render_ft(value: Any) -> str:
    """Write FT, text, an object with `__ft__`, or a list or tuple of these as HTML (str). NotStr is not escaped."""
    if value is None:
        return ""
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(value, tuple | FT) or hasattr(value, "__ft__"):
        return str.__str__(to_xml(value if isinstance(value, tuple) else (value,), indent=False))
    if hasattr(value, "__html__"):
        return str(value.__html__())
    return str(value) if isinstance(value, NotStr) else escape(str(value), quote=False)


class ViewFragment:
    """A rendered view as an FT child: markup (str) whose root says which view it is. Lifetime: one page."""

    __slots__ = ("html",)

    def __init__(self, html: str) -> None:
        self.html = html

    def __ft__(self) -> Safe:
        return Safe(self.html)

    def __html__(self) -> str:
        return self.html

    __str__ = __html__


class Member:
    """A method of a state class that a decorator has made an event or a view. Lifetime: the class."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function = function
        self.name = self.__name__ = name
        self.__doc__ = function.__doc__
        self._is_owned = False

    def __set_name__(self, owner: type, name: str) -> None:
        # A decorator may have left the function with a name of its own. A method that stands in a second class under
        # another name is another one there: the first class's must keep its name.
        named = copy.copy(self) if self._is_owned and name != self.name else self
        named.name = named.__name__ = name
        named._is_owned = True
        if named is not self:
            setattr(owner, name, named)


class View(Member):
    """A method of a state class that renders it; made by `@view`. Lifetime: the class."""

    def __init__(self, function: Callable[[Any], Any], name: str) -> None:
        parameters = list(signature(function).parameters.values())[1:]
        if any(p.default is Parameter.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters):
            raise EventDefinitionError(
                f"the view {function.__qualname__} takes arguments; a view renders the state alone: keep what it "
                "depends on in a field"
            )
        super().__init__(function, name)

    def render(self, state: Any, address: str) -> str:
        """Render the view of `state` as HTML (str), its root element marked with `address` so that patches find it."""
        content = self.function(state)
        parts = [part for part in (content if isinstance(content, tuple | list) else (content,)) if part is not None]
        root = parts[0] if len(parts) == 1 else None
        if isinstance(root, FT) and root.tag:
            marked = FT(root.tag, root.children, {**(root.attrs or {}), VIEW_ATTRIBUTE: address}, void_=root.void_)
            return render_ft(marked)
        # Text, several elements or none: an element that browsers lay out as `display: contents` of their own accord,
        # since a strict Content-Security-Policy forbids style attributes; a <div> would end a <p> around it.
        inner = "".join(map(render_ft, parts))
        return f'<slot {VIEW_ATTRIBUTE}="{escape(address)}">{inner}</slot>'

    @overload
    def __get__(self, instance: None, owner: type) -> View: ...
    @overload
    def __get__(self, instance: Any, owner: type) -> Callable[[], ViewFragment]: ...
    def __get__(self, instance: Any, owner: type) -> View | Callable[[], ViewFragment]:
        if instance is None:
            return self
        return lambda: instance._show(self)

    def __repr__(self) -> str:
        return f"<view {self.name}>"


def view(function: Callable[[Any], Any]) -> View:
    """Make a method of a `ReactiveState` a view: its FT follows the state in every page that shows it.

    The method takes `self` alone and returns FT, text, a list or tuple of these, or None. It is rendered into the page
    where `state.<name>()` stands, and again once per commit; pages get it when it changed. Raises
    `EventDefinitionError` when the method takes arguments.
    """
    return View(function, function.__name__)
