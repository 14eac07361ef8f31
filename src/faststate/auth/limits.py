"""Rate limits per session and per address: token buckets."""

from __future__ import annotations

import ipaddress
import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from ..exceptions import ConfigurationError

logger = logging.getLogger("faststate")

MOST_BUCKETS: Final = 100_000
"""Most buckets that are kept, at about 250 bytes each. Beyond that, the least recently used one is dropped."""

WARN_EVERY: Final = 60.0
"""Seconds between two warnings that addresses are being refused."""


class TokenBuckets:
    """One token bucket per client. Lifetime: the provider.

    A bucket holds `burst` tokens and gains `rate` tokens a second; each action takes one. With a rate of `math.inf`
    there is no limit. `clock` returns seconds. A bucket that would be full again is forgotten, and so is, beyond `most`
    buckets, the one used least recently: an attacker with more clients than that had as many bursts anyway. Raises
    `ConfigurationError` for limits that allow nothing.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float], most: int = MOST_BUCKETS) -> None:
        if not rate > 0 or not burst >= 1:
            raise ConfigurationError(f"a rate is above 0 and a burst at least 1, not {rate!r} and {burst!r}")
        self.rate = rate
        self.burst = burst
        self._clock = clock
        self._most = most
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, last use (s); oldest first

    def __len__(self) -> int:
        return len(self._buckets)

    def charge(self, client: str, tokens: float) -> None:
        """Take `tokens` for work already done for `client`. Its next actions pay for tokens that it does not have."""
        if self.rate == math.inf:
            return
        now = self._clock()
        left, since = self._buckets.pop(client, (self.burst, now))
        self._buckets[client] = (min(self.burst, left + (now - since) * self.rate) - tokens, now)

    def take(self, client: str) -> float:
        """Take one token of `client`. Returns 0.0 if there was one, otherwise the seconds until there is."""
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
            is_full = tokens_left + (now - used) * self.rate >= self.burst
            if oldest == client or not (is_full or len(buckets) > self._most):
                break
            del buckets[oldest]
        return 0.0 if allowed else (1 - tokens) / self.rate


class Rates:
    """The limits of one session and of all sessions of one address. Lifetime: the provider.

    New sessions cost an attacker nothing, new addresses do: so `addresses` limits clients with many sessions. `what`
    (str) names the options that set the addresses' rate, for the log.
    """

    def __init__(self, what: str, sessions: TokenBuckets, addresses: TokenBuckets, clock: Callable[[], float]) -> None:
        self.sessions = sessions
        self.addresses = addresses
        self._what = what
        self._clock = clock
        self._warned_at = -math.inf

    def take(self, session_id: str | None, address: str) -> float:
        """Take one token of a session and one of its address. Returns 0.0 if both had one, else the seconds to wait.

        `address` (str) is the client's address as the server sees it; if it is empty, only the session is limited.
        Requests without a session count as one session of their address. Costs 1.5 us.
        """
        network = network_of(address)
        # The session first: a refused session must not use up the tokens of others at its address.
        if wait := self.sessions.take(session_id or f"address {network}"):
            return wait
        if not network or not (wait := self.addresses.take(network)):
            return 0.0
        if (now := self._clock()) - self._warned_at >= WARN_EVERY:
            self._warned_at = now
            logger.warning(
                "%s does more than %s allows; behind a proxy the server must be told the clients' own addresses",
                address, self._what,
            )  # fmt: skip
        return wait

    def charge(self, session_id: str | None, address: str, tokens: float) -> None:
        """Take `tokens` of a session and of its address for work already done, as `TokenBuckets.charge` does."""
        network = network_of(address)
        self.sessions.charge(session_id or f"address {network}", tokens)
        if network:
            self.addresses.charge(network, tokens)


def network_of(address: str) -> str:
    """Return the network that counts as one client: for IPv6 the /64, which one household or server has.

    An IPv4 address written as IPv6 becomes the IPv4 address. Text that is not an address is returned as it is.
    """
    return _network_of(address) if ":" in address else address


@lru_cache(maxsize=4_096)  # 0.1 us in place of 15
def _network_of(address: str) -> str:
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return f"{ipaddress.IPv6Address(int(parsed) >> 64 << 64)}/64"
