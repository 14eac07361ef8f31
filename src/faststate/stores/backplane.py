"""The backplane: how the processes of one app tell each other what they have changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

__all__ = ["Backplane", "Message", "Receiver"]


class Message(NamedTuple):
    """What one process tells all others that have subscribed to `topic` (str): the `body`, bytes."""

    topic: str
    body: bytes


class Receiver(Protocol):
    """Is told what other processes publish. All of it is called on the event loop on which `listen` was."""

    def received(self, origin: str, topic: str, body: bytes, sequence: int) -> None:
        """A message came from the process `origin`, this one's own among them, in the order of publishing.

        `sequence` (int) is the number of the commit that it was published with, or of the last one before it: all that
        was published up to that number, to topics that are subscribed to, has been received.
        """

    def reached(self, sequence: int) -> None:
        """All that was published up to the commit with this number (int) has been received. Told every second."""

    def lost(self) -> None:
        """Nothing is received any more, until `found`: what is published meanwhile is missed."""

    def found(self) -> None:
        """All topics are subscribed to again. What was published since `lost` has been missed."""


@runtime_checkable
class Backplane(Protocol):
    """Messages between the processes of one app, by topic. Lifetime: from `listen` until the store is closed.

    `origin` (str) is the id of this process among the others. `timeline` (str) names what sequence numbers count in:
    another one begins when the engine may have lost something. Each method raises `BackplaneError` when the engine
    fails, with the driver's error as its cause.
    """

    @property
    def origin(self) -> str: ...

    @property
    def timeline(self) -> str: ...

    async def listen(self, receiver: Receiver) -> None:
        """Has `receiver` be told, from now on, what is published to the topics that are subscribed to."""

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Returns when the engine has acknowledged that all `topics` are subscribed to: what is published from then on
        is received. They stay so, over lost connections too, until `unsubscribe`."""

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Has nothing more be received of the topics, soon; those not subscribed to are passed over."""

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publishes the messages, in their order, with none of another process between them."""

    def tell(self, about: bytes) -> None:
        """What the other processes are told of this one (bytes) with its next signs of life, and all later ones."""

    @property
    def members(self) -> Mapping[str, bytes]:
        """The processes that live, this one among them, by origin: what each has told of itself."""
