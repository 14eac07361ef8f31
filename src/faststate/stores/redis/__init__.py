"""The Redis engine: a store for many processes."""

from __future__ import annotations

from .store import RedisStore

__all__ = ["RedisStore"]
