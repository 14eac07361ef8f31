"""The rules for FastState's data in Redis. Each is stated once, here, in Python or as Lua for the scripts.

Every key begins with the hash tag `{<prefix>}:`, so that all keys lie in one slot of a cluster. Scripts are given it as
`KEYS[1]`. Behind it stands:

- `s:<key>`: a state, as a hash with the fields v (version), d (data), x (when it expires, ms since the epoch), g
  (group), q (sequence number of the commit that wrote it), t (timeline in which it was written)
- `g:<group>`: the keys of a group, as a sorted set with q as the score
- `seq`: the sequence number of the last commit
- `l:<key>`: the holder of a lock, by its fence; `w:<key>`: the fences that wait for the lock, the first one first
- `n:<key>`: a note that a former holder of the lock left the state unclean
- `c:<fence>`: a request for locks that was given up, while it was unknown whether Redis had received it
- `members`: the living processes, as a hash from origin to `<number of beats> <what the process tells the others>`
- `timeline`: a random id, drawn again each time Redis has started; `run`: the id of that start

A state that was written in an older timeline has another epoch than the one it was written with. The new epoch is
computed from the old epoch and the current timeline: all processes agree on it, and nothing has to be written again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

from ...scopes import Version
from ..base import EXPIRED_KEPT, Stored

T = TypeVar("T")

OLDEST: tuple[int, int] = (6, 2)
"""The oldest version of Redis that has all the commands in use."""

Argument = bytes | str | int
"""An argument of a command or script."""


def parse_info(answer: bytes) -> dict[str, str]:
    """Parse the answer to INFO."""
    pairs = (line.partition(":") for line in answer.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in pairs if colon}


def is_too_old(info: Mapping[str, str]) -> bool:
    """True if the server is older than FastState needs. A server that does not tell its version is not."""
    numbers = tuple(int(part) for part in info.get("redis_version", "").split(".")[:2] if part.isdigit())
    return numbers != () and numbers < OLDEST


def new_id() -> str:
    """Draw a random id, for a process or a timeline."""
    return os.urandom(8).hex()


def portions(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Split items into portions, each for one command or script."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


# -- keys and channels -------------------------------------------------------------------------------------------------


def key_base(prefix: str) -> str:
    """Return what all keys and channels of an app begin with."""
    return f"{{{prefix}}}:"


EVERYBODY: Final = "all"
"""The member that stands for all of them, in the name of a channel."""


def topic_channel(base: str, topic: str) -> str:
    """Return the channel of a topic. It carries messages, see `read_message`."""
    return f"{base}c:{topic}"


def topic_of(base: str, channel: str) -> str | None:
    """Return the topic of a channel; None for the channel of a member."""
    name = channel.removeprefix(base)
    return name.removeprefix("c:") if name.startswith("c:") else None


def member_channel(base: str, origin: str) -> str:
    """Return the channel of one process, or of `EVERYBODY`.

    It carries notices: `lock <fence>` (the lock was handed over to it), `beat <sequence>` (the process's own beat), and
    `gone <origin>` (a process has ended).
    """
    return f"{base}@{origin}"


def read_message(body: bytes) -> tuple[str, int, bytes]:
    """Split a message into the origin of its sender, its sequence number, and its body."""
    origin, sequence, rest = body.split(b" ", 2)
    return origin.decode(), int(sequence), rest


NAMES: Final = """
local base = KEYS[1]
local call = redis.call
local states, groups, members = base .. 's:', base .. 'g:', base .. 'members'
local function whole(number) return string.format('%.0f', number) end
local function last_sequence() return tonumber(call('GET', base .. 'seq') or '0') end
local function publish(topic, origin, sequence, body)
  call('PUBLISH', base .. 'c:' .. topic, origin .. ' ' .. sequence .. ' ' .. body)
end
local function notify(member, notice) call('PUBLISH', base .. '@' .. member, notice) end
"""

LOST: Final = "NOTIMELINE"
"""The error code of a script that found no timeline: everything was deleted while Redis ran. The script did nothing."""

TIMELINE: Final = f"""{NAMES}
local timeline = call('GET', base .. 'timeline')
if not timeline then return redis.error_reply('{LOST} the data of the store was deleted') end
"""


# -- versions, times and states ----------------------------------------------------------------------------------------


def version_text(version: Version | None) -> str:
    """Return a version as scripts know it: `<number> <epoch>`, empty for None."""
    return "" if version is None else f"{version.number} {version.epoch}"


def read_version(text: str) -> Version:
    """Return the version that `version_text` wrote. Not for None."""
    number, _, epoch = text.partition(" ")
    return Version(epoch, int(number))


ANY_VERSION: Final = "*"
"""Stands for a known version that no state has, so that a script returns the state in any case."""


def to_milliseconds(ttl: float | None) -> Argument:
    """Return seconds as scripts know them: whole milliseconds, empty for None."""
    return "" if ttl is None else round(ttl * 1_000)


def read_stored(version: bytes, data: bytes, left: bytes) -> Stored:
    """Return a state that a script has returned: version, data, and the milliseconds until it expires."""
    return Stored(read_version(version.decode()), data, int(left) / 1_000 if left else None)


def read_news(rows: Iterable[Sequence[bytes]]) -> dict[str, Stored | None]:
    """Return by key what `add_news` has collected."""
    return {row[0].decode(): read_stored(row[1], row[2], row[3]) if len(row) > 1 else None for row in rows}


# ARGV[1] is the time in ms since the epoch, empty for the server's clock.
STATES: Final = (
    f"local kept = {round(EXPIRED_KEPT * 1_000)}"
    + """
local now = tonumber(ARGV[1])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
-- The version of a state that was written in the timeline `written`.
local function effective(version, written)
  if not version or written == timeline then return version end
  local number, epoch = string.match(version, '^(%S+) (.*)$')
  return number .. ' ' .. string.sub(redis.sha1hex(epoch .. timeline), 1, 12)
end
local function expired(expires) return expires and tonumber(expires) <= now end
local function left(expires) return expires and whole(tonumber(expires) - now) or '' end
-- Let a state expire in `ttl` ms, and Redis delete it later: a process that still holds it can bring it back. Nobody
-- holds a note, which has no epoch and is written once, so that is deleted when it expires.
-- Returns in how many ms Redis deletes it.
local function expire(state, version, ttl)
  local life = math.max(1, ttl + (string.match(version, ' $') and 0 or kept))
  call('HSET', state, 'x', whole(now + ttl))
  call('PEXPIRE', state, whole(life))
  return life
end
-- Add what is stored under a key if its version is not the known one ('' for nothing stored, '*' for any).
local function add_news(news, key, known)
  local row = call('HMGET', states .. key, 'v', 't', 'x')
  local version = effective(row[1], row[2])
  if version and version ~= known and expired(row[3]) then version = false end
  if (version or '') ~= known then
    news[#news + 1] = version and {key, version, call('HGET', states .. key, 'd'), left(row[3])} or {key}
  end
end
"""
)

GROUPS: Final = """
-- Keep the list of a group's keys for `life` ms at least ('' for ever): as long as any of its states.
local function keep_group(group, life)
  local lasts = call('PTTL', group)
  if life == '' then
    if lasts >= 0 then call('PERSIST', group) end
  elseif lasts >= 0 and lasts < life then
    call('PEXPIRE', group, whole(life))
  end
end
local function leave_group(group, key)
  if group then call('ZREM', groups .. group, key) end
end
"""


# -- locks -------------------------------------------------------------------------------------------------------------


def make_fence(origin: str, number: int) -> str:
    """Return the fence of a request for locks. No other request, of any process, ever has the same."""
    return f"{origin}:{number}"


def member_of(fence: str) -> str:
    """Return the origin of the process that has a fence."""
    return fence.partition(":")[0]


LOCKS: Final = """
local locks, queues, notes, given_up = base .. 'l:', base .. 'w:', base .. 'n:', base .. 'c:'
local week = 604800000
local function member(fence) return string.match(fence, '^[^:]*') end
local function lives(fence) return call('HEXISTS', members, member(fence)) == 1 end
-- Free a lock, or hand it over to the first fence in the queue whose process lives.
local function release(key, clean)
  local lock, queue = locks .. key, queues .. key
  while true do
    local next = call('LINDEX', queue, 0)
    if not next then
      if clean then call('DEL', lock, notes .. key) else call('DEL', lock) end
      return
    end
    if lives(next) then
      call('SET', lock, next, 'PX', week)
      call('LPOP', queue)
      if clean then call('DEL', notes .. key) end
      notify(member(next), 'lock ' .. next)
      return
    end
    call('LPOP', queue)
  end
end
"""
