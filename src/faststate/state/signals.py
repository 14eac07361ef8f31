"""The signals of a state: `state.signal.<field>`, as a live element, an expression or a binding of an input."""

from __future__ import annotations

from html import escape
from typing import Any, cast

from datastar_py.attributes import BindAttr
from datastar_py.attributes import attribute_generator as data
from fastcore.xml import Safe

from ..wire.values import display
from .views import attribute

__all__ = ["SignalRef", "Signals"]


class SignalRef(str):
    """A signal: as a string the expression `$Counter.count`, as an FT child a live `<span>` with the value in it."""

    __slots__ = ("_value",)
    _value: Any

    @classmethod
    def _of(cls, path: str, value: Any) -> SignalRef:
        made = cls("$" + path)
        made._value = value
        return made

    def bind(self) -> BindAttr:
        """Write the attribute that ties an input to this signal in both ways: `Input(state.signal.draft.bind())`."""
        return cast(BindAttr, data.bind(self[1:]))

    def __ft__(self) -> Safe:
        text = escape(display(self._value), quote=False)
        return Safe(f"<span {attribute('data-text', self)}>{text}</span>")


class Signals:
    """`state.signal`: the state's visible fields as `SignalRef`s. Lifetime: one look-up."""

    __slots__ = ("_state",)

    def __init__(self, state: Any) -> None:
        self._state = state

    def __getattr__(self, name: str) -> SignalRef:
        state = self._state
        schema = type(state)._fs_schema()
        if name not in schema.signals:
            raise AttributeError(
                f"{type(state).__name__} has no signal {name!r}; its signals are {', '.join(schema.signals) or 'none'}"
                " (collections show through a @view, or are marked AsSignal)"
            )
        return SignalRef._of(".".join((*state._namespace, name)), state._wire()[name])
