"""The store for many processes, in Redis.

Begin with `store.RedisStore`. `rules` says how data is kept in Redis, and `scripts` what Redis does with it.
"""

from .store import RedisStore

__all__ = ["RedisStore"]
