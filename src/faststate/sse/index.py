"""An index of connections by name: of their user, their session, their address."""

from __future__ import annotations

from .connection import SSEConnection

__all__ = ["Index"]


class Index:
    """Connections by name. Lifetime: the manager.

    Most names have one connection: a set, of 216 bytes, is made only for several.
    """

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[str, SSEConnection | set[SSEConnection]] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, name: str, connection: SSEConnection) -> None:
        """Add a connection, which may be there already."""
        found = self._found.setdefault(name, connection)
        if isinstance(found, set):
            found.add(connection)
        elif found is not connection:
            self._found[name] = {found, connection}

    def discard(self, name: str, connection: SSEConnection) -> None:
        """Remove a connection, if it is there."""
        found = self._found.get(name)
        if found is connection:
            del self._found[name]
        elif isinstance(found, set):
            found.discard(connection)
            if not found:
                del self._found[name]

    def names(self) -> list[str]:
        """Return the names that have connections."""
        return list(self._found)

    def count(self, name: str) -> int:
        """Return the number of connections under a name."""
        found = self._found.get(name)
        return len(found) if isinstance(found, set) else int(found is not None)

    def named(self, name: str) -> list[SSEConnection]:
        """Return the connections under a name."""
        found = self._found.get(name)
        return list(found) if isinstance(found, set) else [found] if found is not None else []
