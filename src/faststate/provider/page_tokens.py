"""The tokens of pages: signed, verified for a caller, merged, and read one by one where they are many."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..auth.tokens import ShownState, TokenSigner, WatchToken
from ..exceptions import AccessError, ConfigurationError, NotStartedError
from ..sessions.caller import Caller, Identity
from .options import Options
from .throttle import Throttle

LONG: Final = 4_096
"""Characters of a request's tokens from which on they are verified in portions, and charged to the client.

Each fragment that a page has fetched brings a token, and each state that it shows adds an entry to one. To verify what
`max_payload` lets through takes up to 40 ms, and 1,000 tokens take 11 ms; an event verifies only those that it needs.
"""

PORTION: Final = 64
"""Tokens that are verified before other work has its turn: 0.7 ms."""

EVENT_WORK: Final = 200.0
"""Microseconds of work for which a client is charged one event."""

MERGED_FROM: Final = 16
"""Tokens beyond which a page is given a single one in their place, when it opens its stream."""


class StaleTokens(Exception):
    """The tokens are genuine, but of an earlier session or user, or too old: the page must reload."""


class ForgedTokens(AccessError):
    """A token that this app has not made, or an id that no token names."""


class PageTokens:
    """Signs and verifies the tokens of one provider's pages. Lifetime: the provider."""

    def __init__(self, options: Options, throttle: Throttle) -> None:
        self._options = options
        self._throttle = throttle
        self._signer: TokenSigner | None = None
        if options.secret_key is not None:
            self.use_key(options.secret_key)

    @property
    def has_key(self) -> bool:
        """True once there is a key to sign with."""
        return self._signer is not None

    def use_key(self, secret_key: str | Sequence[str]) -> None:
        """Set the key (or keys, oldest first) that tokens are signed with."""
        keys = [secret_key] if isinstance(secret_key, str) else list(secret_key)
        if not keys or not all(isinstance(key, str) and key for key in keys):
            raise ConfigurationError("secret_key must be a str, or a list of them, none of them empty")
        self._signer = TokenSigner(keys, self._options.token_max_age, self._options.prefix)

    @property
    def signer(self) -> TokenSigner:
        """Signs and verifies tokens. Raises `NotStartedError` before `setup`, unless a secret_key was given."""
        if self._signer is None:
            raise NotStartedError("the provider has no secret_key yet: use faststate.fast_app, or call setup(app)")
        return self._signer

    def signed(self, bound_to: str, shown: tuple[ShownState, ...]) -> dict[str, str]:
        """Return a token for what a page shows, by its name there; `bound_to` is as `Identity.binding`."""
        return {_name(shown): self.signer.sign(bound_to, shown)}

    async def verify(self, caller: Caller, tokens: Sequence[Any], *, again: bool = False) -> list[WatchToken]:
        """Return the content of these tokens, all genuine and of the caller's session and user.

        They are remembered if they will come `again` soon. Raises `StaleTokens` for one of another session or user, or
        too old, and `ForgedTokens` for one that is not genuine.
        """
        if not tokens:
            return []
        expected = (await caller.identity()).binding
        if not _is_long(tokens):
            return self.genuine(tokens, expected, again=again)
        found: list[WatchToken] = []
        signer, work = self.signer, 0.0
        for at in range(0, len(tokens), PORTION):
            before = signer.work
            found += self.genuine(tokens[at : at + PORTION], expected, again=again)
            work += signer.work - before
            await asyncio.sleep(0)
        self._throttle.event_rates.charge(caller.session_id(), caller.address, work / EVENT_WORK)
        return found

    def genuine(self, tokens: Sequence[Any], expected: str, *, again: bool = True) -> list[WatchToken]:
        """Return the content of tokens that were made for the session and user `expected`; as `verify`."""
        found: list[WatchToken] = []
        verify, stale = self.signer.verify, False
        for token in tokens:
            verified = verify(token, again=again)
            if verified is None:
                raise ForgedTokens("the page's token is not genuine")
            if verified.expired or verified.binding != expected:
                stale = True
            found.append(verified)
        if stale:
            raise StaleTokens
        return found

    def watched(self, caller: Caller, identity: Identity, tokens: Sequence[Any]) -> Watched | None:
        """Return what a page shows by these tokens; None if they are too many to verify. Raises as `verify`."""
        if _is_long(tokens):
            return None
        expected = identity.binding
        return Watched(self, caller, expected, states_shown(self.genuine(tokens, expected)))

    async def merge(self, caller: Caller, tokens: Sequence[Any]) -> Mapping[str, str | None]:
        """Return what replaces the many tokens of a page, as `merged_tokens`; empty if they are few.

        Raises as `verify`.
        """
        if len(tokens) <= MERGED_FROM:
            return {}
        return merged_tokens(self.signer, await self.verify(caller, tokens, again=True))


class Watched:
    """The states that a page shows, by its tokens; of many only the needed ones are verified. Lifetime: the event.

    `shown` is what the verified tokens show; `claimed` holds the others by what they claim to show.
    """

    __slots__ = ("_caller", "_expected", "_tokens", "claimed", "shown")

    def __init__(self, tokens: PageTokens, caller: Caller, expected: str, shown: Sequence[ShownState]) -> None:
        self._tokens = tokens
        self._caller = caller
        self._expected = expected
        self.shown = shown
        self.claimed: dict[tuple[str, str | None], list[Any]] = {}

    @classmethod
    async def by_many(cls, tokens: PageTokens, caller: Caller, expected: str, given: Sequence[Any]) -> Watched:
        """Read many tokens. The first is always verified: it tells whether the page is of this session and user."""
        made = cls(tokens, caller, expected, ())
        unread = [given[0]]
        for token in given[1:]:
            claims = tokens.signer.claims(token)
            if claims is None:
                unread.append(token)
            for own in claims or ():
                made.claimed.setdefault(own, []).append(token)
        made.shown = list(states_shown(await tokens.verify(caller, unread, again=True)))
        return made

    def views(self, name: str, instance_id: str | None) -> list[tuple[str, ...]]:
        """Return the views of a state that the page shows, by each of its tokens; none if it does not show the state.

        Raises as `PageTokens.verify`.
        """
        if self.claimed and (tokens := self.claimed.pop((name, instance_id), None)):
            self.shown = [*self.shown, *states_shown(self._tokens.genuine(tokens, self._expected))]
        return [shown.views for shown in self.shown if shown.name == name and shown.instance_id == instance_id]

    async def all(self) -> Sequence[ShownState]:
        """Return all that the page shows. Raises as `PageTokens.verify`."""
        tokens = list(dict.fromkeys(token for claiming in self.claimed.values() for token in claiming))
        self.claimed = {}
        self.shown = [*self.shown, *states_shown(await self._tokens.verify(self._caller, tokens, again=True))]
        return self.shown


def _is_long(tokens: Sequence[Any]) -> bool:
    return sum(len(token) for token in tokens if isinstance(token, str)) > LONG


def states_shown(tokens: Sequence[WatchToken]) -> Sequence[ShownState]:
    """Return what these tokens show."""
    return tokens[0].shown if len(tokens) == 1 else [shown for token in tokens for shown in token.shown]


def _name(shown: tuple[ShownState, ...]) -> str:
    """Return a token's name on the page: if the same fragment is fetched again, its token replaces the old one.

    A cryptographic digest, so that nobody can choose a record's id to replace another state's token.
    """
    return f"p{hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:8]}"


def merged_tokens(signer: TokenSigner, tokens: Sequence[WatchToken]) -> dict[str, str | None]:
    """Return one token for all that these tokens show, and None for each that it replaces, by name as in `_fs.w`.

    A thousand fragments bring a thousand tokens, which are 130 KB; their ids in one token are 3 KB, or 30 KB of UUIDs.
    """
    views: dict[tuple[str, str | None], set[str]] = {}
    for token in tokens:
        for name, instance_id, shown in token.shown:
            views.setdefault((name, instance_id), set()).update(shown)
    merged = tuple(ShownState(*own, tuple(sorted(names))) for own, names in views.items())
    names: dict[str, str | None] = {_name(token.shown): None for token in tokens}
    names[_name(merged)] = signer.sign(tokens[0].binding, merged)
    return names
