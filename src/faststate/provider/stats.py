"""The counters of a provider."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ..cluster.base import AppCluster
from ..registry.registry import StateRegistry
from ..sse.manager import SSEManager


class Stats(NamedTuple):
    """The counters of one process, at one moment.

    `events` ran and were committed; `refused` were answered with an error; `repeated` had run before. `evicted` states
    left memory because there were too many, `expired` ones because they were idle. `saves` went to the store or to
    rows; what was found there and did not fit its class any more was `kept_aside`. Of the `connections`, `behind` have
    not taken what was written, the slowest for `lag` seconds, and `cut` were ended for it; `coalesced` changes were
    sent together with a later one, counted for each connection.
    """

    states: int
    connections: int
    subscriptions: int
    commits: int
    events: int
    refused: int
    repeated: int
    expired: int
    connections_total: int
    coalesced: int
    bytes_sent: int
    evicted: int
    saves: int
    kept_aside: int
    behind: int
    lag: float
    cut: int


@dataclass(slots=True)
class Counters:
    """The counts of one provider's events; see `Stats`. Lifetime: the provider."""

    events: int = 0
    refused: int = 0
    repeated: int = 0


def stats_of(registry: StateRegistry, manager: SSEManager, counters: Counters) -> Stats:
    """Return the counters of this process."""
    return Stats(
        states=len(registry),
        connections=len(manager.connections),
        subscriptions=manager.fanout.subscriptions,
        commits=registry.commits,
        events=counters.events,
        refused=counters.refused,
        repeated=counters.repeated,
        expired=registry.lifetimes.expired,
        connections_total=manager.total,
        coalesced=manager.fanout.coalesced,
        bytes_sent=manager.fanout.sent_bytes,
        evicted=registry.lifetimes.evicted,
        saves=registry.committer.saves,
        kept_aside=sum(persistence.kept_aside for persistence in registry.persistence.values()),
        behind=len(manager.behind),
        lag=manager.lag,
        cut=manager.cut,
    )


def stats_everywhere(own: Stats, cluster: AppCluster) -> Stats:
    """Return the sums over all processes of an app; `lag` is the longest of all."""
    others = [[found.get(name, 0) for name in Stats._fields] for found in cluster.others()]
    sums = Stats(*map(sum, zip(own, *others, strict=True)))
    return sums._replace(lag=max([own.lag, *(each[Stats._fields.index("lag")] for each in others)]))
