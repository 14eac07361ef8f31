"""The layout of itsdangerous' URL-safe tokens: `payload.timestamp.signature`, and a dot before a compressed payload."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from typing import Any, Final

from itsdangerous import URLSafeTimedSerializer
from itsdangerous.encoding import base64_encode
from pydantic_core import from_json

WORTH_COMPRESSING: Final = 256
"""Least bytes of a payload that are compressed. A shorter one gets no shorter by it."""

_COMPACT: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
"""The same encoder as in itsdangerous, which makes a new one for each token."""


class _CompactSerializer(URLSafeTimedSerializer):
    """A serializer that compresses long payloads only. Lifetime: its signer.

    Each attempt of zlib allocates 256 KB, which was a third of the cost of a small token.
    """

    def dump_payload(self, obj: Any) -> bytes:
        payload = _COMPACT.encode(obj).encode()
        return base64_encode(payload) if len(payload) < WORTH_COMPRESSING else super().dump_payload(obj)


def unverified_payload(token: str) -> Any:
    """Return the payload of a token without verifying it; None if it is compressed, or laid out in another way.

    A compressed payload could expand without limit. If itsdangerous changes the layout, this is None for every token,
    and callers verify each one, which takes four times as long.
    """
    return _read_payload(token) if _layout_is_known else None


def _read_payload(token: str) -> Any:
    payload, dot, _ = token.partition(".")
    if not payload or not dot:
        return None
    try:
        return from_json(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except ValueError:
        return None


def _knows_layout(serializer: type[URLSafeTimedSerializer]) -> bool:
    try:
        signer = serializer("key")
        token = str(signer.dumps(["value"]))
        return bool(signer.loads(token) == _read_payload(token) == ["value"])
    except Exception:
        return False


_layout_is_known = _knows_layout(_CompactSerializer)

TokenSerializer: Final[type[URLSafeTimedSerializer]] = (
    _CompactSerializer if _layout_is_known else URLSafeTimedSerializer
)
"""The serializer for tokens. If the layout has changed, it is that of itsdangerous, which tries to compress each."""
