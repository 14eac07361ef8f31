"""How often one client may do something: token buckets."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

from .exceptions import ConfigurationError

__all__ = ["TokenBuckets"]


class TokenBuckets:
    """One token bucket per client. Lifetime: the provider.

    A bucket holds `burst` tokens and gets `rate` new ones a second; each action takes one. With a rate of `math.inf`
    there is no limit. `clock` returns seconds. A bucket that would be full again is forgotten: there are as many as
    there were clients in `burst / rate` seconds. Raises `ConfigurationError` for what lets nothing through.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        if not rate > 0 or not burst >= 1:
            raise ConfigurationError(f"a rate is above 0 and a burst at least 1, not {rate!r} and {burst!r}")
        self.rate = rate
        self.burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when; least recent first

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, client: str) -> float:
        """Takes a token of `client`'s: 0.0 when there was one, else the seconds until there is."""
        if self.rate == math.inf:
            return 0.0
        now = self._clock()
        buckets = self._buckets
        tokens, since = buckets.pop(client, (self.burst, now))
        tokens = min(self.burst, tokens + (now - since) * self.rate)
        allowed = tokens >= 1
        buckets[client] = (tokens - allowed, now)
        while buckets:
            oldest = next(iter(buckets))
            tokens_left, used = buckets[oldest]
            if oldest == client or tokens_left + (now - used) * self.rate < self.burst:
                break
            del buckets[oldest]
        return 0.0 if allowed else (1 - tokens) / self.rate
