"""The backplane: messages between the processes of one app."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable


class Message(NamedTuple):
    """A message for all processes that are subscribed to `topic` (str). The `body` is bytes."""

    topic: str
    body: bytes


class Receiver(Protocol):
    """A receiver of messages. Its methods are called on the event loop on which `listen` was called."""

    def received(self, origin: str, topic: str, body: bytes, sequence: int) -> None:
        """Take a message from the process `origin`, which may be this one. Messages come in the order of publishing.

        `sequence` (int) is the number of the commit that published the message, or of the last commit before it. All
        messages to subscribed topics that were published up to this commit have now been received.
        """

    def reached(self, sequence: int) -> None:
        """Note that all messages up to the commit with this number (int) were received. Called about once a second."""

    def lost(self) -> None:
        """Note that messages are missed from now on, until `found` is called."""

    def found(self) -> None:
        """Note that all topics are subscribed to again. Messages published since `lost` were missed."""


@runtime_checkable
class Backplane(Protocol):
    """Messages between the processes of one app, by topic. Lifetime: from `listen` until the store is closed.

    `origin` (str) is the id of this process among the others; it changes if the process was taken for dead. `timeline`
    (str) is an id for the sequence numbers, empty before the first connection: a new timeline begins when the engine
    may have lost data, and numbers of different timelines cannot be compared. Each method raises `BackplaneError` if
    the engine fails, with the driver's error as its cause.
    """

    @property
    def origin(self) -> str: ...

    @property
    def timeline(self) -> str: ...

    async def listen(self, receiver: Receiver) -> None:
        """Pass what is published to the subscribed topics to `receiver`, from now on."""

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Subscribe to `topics`, and return when the engine has acknowledged it.

        From then on, every message to the topics is received. A lost connection does not end the subscription; only
        `unsubscribe` does.
        """

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Stop receiving the messages of the topics, soon. Topics that are not subscribed to are ignored."""

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish the messages in their order, with no message of another process in between."""

    def tell(self, about: bytes) -> None:
        """Set what the other processes learn about this one (bytes), with its next sign of life and all later ones."""

    @property
    def members(self) -> Mapping[str, bytes]:
        """The living processes, with this one, as of the last sign of life: what each tells about itself, by origin."""
