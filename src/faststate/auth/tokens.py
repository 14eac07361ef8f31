"""Watch tokens: what a page shows, signed, so that ids come back from the browser as the server wrote them."""

from __future__ import annotations

import hashlib
import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, Generic, NamedTuple, TypeVar

from itsdangerous import BadData, SignatureExpired, URLSafeTimedSerializer
from itsdangerous.encoding import base64_encode
from pydantic_core import from_json

__all__ = ["TOKEN_MAX_AGE", "Genuine", "Shown", "TokenSigner", "WatchToken", "binding"]

TOKEN_MAX_AGE: Final = 7 * 86_400
"""Seconds that a page's token is good for; an older page is told to reload."""

K = TypeVar("K")
V = TypeVar("V")

TOKENS_KEPT: Final = 4_096
"""Tokens whose signature was found genuine and is not computed again; the longest known gives way."""

LONGEST_KEPT: Final = 2_048
"""Characters of a token, or bytes of a request's cookies, that are kept; what is longer is verified each time."""


class Shown(NamedTuple):
    """One state on a page: its registered name, its own id where a page can have several, and its views shown there."""

    name: str
    instance_id: str | None
    views: tuple[str, ...]


class WatchToken(NamedTuple):
    """What a verified token says: the session and user it was made for (as `binding()`), and what the page shows."""

    binding: str
    shown: tuple[Shown, ...]
    expired: bool = False


@lru_cache(maxsize=1_024, typed=True)  # typed, since True and 1 are equal and two users
def binding(session_id: str | None, user_id: object) -> str:
    """A digest (str) of session and user. A session id has 128 random bits, so the digest gives neither away."""
    text = f"{session_id}\0{'' if user_id is None else user_id}"
    return urlsafe_b64encode(hashlib.sha256(text.encode()).digest()[:12]).decode()


WORTH_COMPRESSING: Final = 256
"""Bytes from which on it is tried to compress a token's content; that of a few states gets no shorter."""

_COMPACT: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
"""As itsdangerous has it, which makes one for each token."""


class _Serializer(URLSafeTimedSerializer):
    """itsdangerous' own, but that it compresses what is long alone.

    For each try zlib takes 256 KB of fresh memory, which was a third of what a small token cost.
    """

    def dump_payload(self, obj: Any) -> bytes:
        payload = _COMPACT.encode(obj).encode()
        return base64_encode(payload) if len(payload) < WORTH_COMPRESSING else super().dump_payload(obj)


class Genuine(Generic[K, V]):
    """What signed texts say that were found genuine, by all of their characters or bytes. Lifetime: that of their keys.

    There are `most` at most; the longest known gives way. Each time it counts how old one is, as itsdangerous counts
    it: older than `max_age` seconds (None for any age) it is known no more.
    """

    __slots__ = ("_kept", "_max_age", "_most")

    def __init__(self, most: int, max_age: float | None) -> None:
        self._most = most
        self._max_age = max_age
        self._kept: dict[K, tuple[V, int]] = {}  # and when it was signed, in seconds

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, text: object) -> bool:
        return text in self._kept

    def get(self, text: K) -> V | None:
        """What it says; None where it is not known, or too old by now."""
        kept = self._kept.get(text)
        if kept is None:
            return None
        if self._max_age is None or 0 <= int(time.time()) - kept[1] <= self._max_age:
            return kept[0]
        del self._kept[text]
        return None

    def keep(self, text: K, says: V, signed_at: int) -> None:
        """Remembers what a genuine text says, and when it was signed (seconds)."""
        if len(self._kept) >= self._most:
            del self._kept[next(iter(self._kept))]
        self._kept[text] = says, signed_at


class TokenSigner:
    """Signs and verifies watch tokens. Lifetime: the provider.

    `secret_keys` are tried from the last to the first; the last one signs (itsdangerous' key rotation). `purpose` tells
    the tokens of two providers with one key apart.
    """

    def __init__(self, secret_keys: Sequence[str], max_age: int = TOKEN_MAX_AGE, purpose: str = "") -> None:
        self._serializer = _Serializer(list(secret_keys), salt=f"faststate.watch{purpose}")
        self._signing = self._serializer.make_signer(self._serializer.salt)
        self.max_age = max_age
        self._genuine: Genuine[str, WatchToken] = Genuine(TOKENS_KEPT, max_age)
        self.work = 0.0
        """Microseconds, roughly, that tokens have cost which were verified and not remembered."""

    def sign(self, bound_to: str, shown: Iterable[Shown]) -> str:
        """A URL-safe token (str) for a page that shows `shown`, of the session and user in `bound_to`."""
        return self._signing.sign(self._serializer.dump_payload([bound_to, list(shown)])).decode()

    def claims(self, token: object) -> list[tuple[str, str | None]] | None:
        """Returns what a token claims to show (name and own id each), unverified; None where only `verify` can tell.

        So of a thousand tokens those alone are verified that are of use. It takes 2.5 µs, where `verify` takes 11.
        """
        if not isinstance(token, str) or token.startswith("."):  # compressed: unverified, it might grow beyond bounds
            return None
        if (kept := self._genuine.get(token)) is not None:
            return [(name, own) for name, own, _ in kept.shown]
        payload = token.partition(".")[0]
        try:
            _, entries = from_json(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            return [(name, own) for name, own, _ in entries]
        except (ValueError, TypeError):
            return None

    def verify(self, token: object, *, again: bool = True) -> WatchToken | None:
        """What `token` says, or None when it is forged, cut or no token at all. An expired one says so.

        It is remembered where it will come `again`, as it does with each event of its page.
        """
        if not isinstance(token, str):
            return None
        if (kept := self._genuine.get(token)) is not None:
            return kept
        if "+" in token or "/" in token:  # which base64 would read as - and _
            return None
        try:
            (bound_to, entries), signed = self._serializer.loads(token, max_age=self.max_age, return_timestamp=True)
            found = WatchToken(bound_to, tuple(Shown(name, own, tuple(views)) for name, own, views in entries))
        except SignatureExpired:
            return WatchToken("", (), expired=True)
        except (BadData, ValueError, TypeError):
            return None
        self.work += 10 + 0.5 * len(found.shown)
        if again and len(token) <= LONGEST_KEPT:
            self._genuine.keep(token, found, int(signed.timestamp()))
        return found
