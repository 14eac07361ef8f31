"""What Redis itself does for the store: Lua scripts, each of which nothing comes in between.

All keys begin with the hash tag `{<prefix>}:`, which is `KEYS[1]`, and so lie in one slot:

- `s:<key>` a state, as a hash: v (number and epoch), d (data), x (when it expires, in ms), g (group), q (number of the
  commit that wrote it), t (timeline in which it was written)
- `g:<group>` the keys of a group, scored by q; `seq` the number of the last commit
- `l:<key>` who has a lock, by its fence `<member>:<number>`; `w:<key>` the fences that wait for it, first come first;
  `n:<key>` a note that a former holder left the state unclean; `c:<fence>` a request for locks that was given up before
  it was known whether Redis had seen it
- `members` the living processes: a count of their beats, and what they tell of themselves
- `timeline` another one each time that Redis was started, and `run` that start's id

A state that was written in another timeline has another epoch than it was written with: one that follows from both, so
that all processes agree on it, and nothing need be written anew.
"""

from __future__ import annotations

import hashlib
from typing import Final

__all__ = [
    "BEAT",
    "BURY",
    "COMMIT",
    "DELETE",
    "GIVE_BACK",
    "HELLO",
    "JOIN",
    "LEAVE",
    "LOCK",
    "LOST",
    "NEWS",
    "PAGE",
    "SEQUENCES",
    "TOUCH",
    "Script",
]

LOST: Final = "NOTIMELINE"
"""What an error begins with when there is no timeline: all was deleted while Redis ran. Nothing was done."""


class Script:
    """A script with its name in Redis. Lifetime: the module."""

    __slots__ = ("sha", "text")

    def __init__(self, *parts: str) -> None:
        self.text = "\n".join(part.strip() for part in parts).encode()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


_BASE: Final = """
local base = KEYS[1]
local call = redis.call
local function whole(number) return string.format('%.0f', number) end
"""

_TIMELINE: Final = f"""
local timeline = call('GET', base .. 'timeline')
if not timeline then return redis.error_reply('{LOST} what the store held was deleted') end
"""

# ARGV[1] is the time in ms since the epoch, or nothing for the server's.
_STATES: Final = """
local now = tonumber(ARGV[1])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local function effective(version, written)
  if not version or written == timeline then return version end
  local number, epoch = string.match(version, '^(%S+) (.*)$')
  return number .. ' ' .. string.sub(redis.sha1hex(epoch .. timeline), 1, 12)
end
local function expired(expires) return expires and tonumber(expires) <= now end
local function left(expires) return expires and whole(tonumber(expires) - now) or '' end
-- Adds what is stored under a key when it is another than the known version ('' for nothing, '*' for any).
local function tell_news(into, key, known)
  local row = call('HMGET', base .. 's:' .. key, 'v', 't', 'x')
  local version = effective(row[1], row[2])
  if version and version ~= known and expired(row[3]) then version = false end
  if (version or '') ~= known then
    into[#into + 1] = version and {key, version, call('HGET', base .. 's:' .. key, 'd'), left(row[3])} or {key}
  end
end
"""

# How long what is kept of a group may lie there: as long as any of its states.
_GROUPS: Final = """
local function keep_group(group, life)
  local lasts = call('PTTL', group)
  if life == '' then
    if lasts >= 0 then call('PERSIST', group) end
  elseif lasts >= 0 and lasts < life then
    call('PEXPIRE', group, whole(life))
  end
end
local function leave_group(group, key)
  if group then call('ZREM', base .. 'g:' .. group, key) end
end
"""

_LOCKS: Final = """
local week = 604800000
local function member(fence) return string.match(fence, '^[^:]*') end
local function lives(fence) return call('HEXISTS', base .. 'members', member(fence)) == 1 end
-- Frees a lock, or hands it over to the first of those waiting whose process lives.
local function release(key, clean)
  local lock, queue = base .. 'l:' .. key, base .. 'w:' .. key
  while true do
    local next = call('LINDEX', queue, 0)
    if not next then
      if clean then call('DEL', lock, base .. 'n:' .. key) else call('DEL', lock) end
      return
    end
    if lives(next) then
      call('SET', lock, next, 'PX', week)
      call('LPOP', queue)
      if clean then call('DEL', base .. 'n:' .. key) end
      call('PUBLISH', base .. '@' .. member(next), 'lock ' .. next)
      return
    end
    call('LPOP', queue)
  end
end
"""

# A connection is greeted before anything else is sent over it. A server that was started since the last greeting may
# have lost something: then there is a new timeline, in which nobody lives yet.
# ARGV: the server's run id or nothing; a new timeline; the last timeline and the highest sequence number seen in it
HELLO: Final = Script(
    _BASE,
    """
local run = call('GET', base .. 'run')
local timeline = call('GET', base .. 'timeline')
local sequence = tonumber(call('GET', base .. 'seq') or '0')
if ARGV[1] ~= '' and run and run ~= '' and run ~= ARGV[1] then timeline = false end
if timeline == ARGV[3] and sequence < tonumber(ARGV[4]) then timeline = false end
if not timeline then
  timeline = ARGV[2]
  call('SET', base .. 'timeline', timeline)
  call('DEL', base .. 'members')
end
local started = ARGV[1] ~= '' and ARGV[1] or run or ''
if run ~= started then call('SET', base .. 'run', started) end
call('DEL', base .. 'none') -- a replica refuses that; a Redis that has no room does not
return {timeline, whole(sequence)}
""",
)

# ARGV: time; key, known version, key, known version...
NEWS: Final = Script(
    _BASE,
    _TIMELINE,
    _STATES,
    """
local news = {}
for i = 2, #ARGV, 2 do tell_news(news, ARGV[i], ARGV[i + 1]) end
return news
""",
)

# ARGV: time; group; lowest score; how many
PAGE: Final = Script(
    _BASE,
    _TIMELINE,
    _STATES,
    """
local group = base .. 'g:' .. ARGV[2]
local page = call('ZRANGEBYSCORE', group, ARGV[3], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[4])
local rows = {}
for i = 1, #page, 2 do
  local key = page[i]
  local row = call('HMGET', base .. 's:' .. key, 'v', 't', 'x', 'g', 'd')
  if row[4] ~= ARGV[2] then
    call('ZREM', group, key)
  elseif not expired(row[3]) then
    rows[#rows + 1] = {key, effective(row[1], row[2]), row[5], left(row[3])}
  end
end
return {#page / 2, page[2] or '', page[#page] or '', rows}
""",
)

# ARGV: keys
SEQUENCES: Final = Script(
    _BASE,
    _TIMELINE,
    """
local found = {}
for i = 1, #ARGV do found[i] = call('HGET', base .. 's:' .. ARGV[i], 'q') end
return found
""",
)

# ARGV: time; how long what is expired is kept, in ms; how many holds, writes and messages follow; each hold as key,
# fence, '1' to keep it; each write as key, expected version, version, '1' for data, data, time to live in ms, '1' for a
# group, group; each message as topic, body; at last who publishes.
COMMIT: Final = Script(
    _BASE,
    _TIMELINE,
    _STATES,
    _GROUPS,
    _LOCKS,
    """
local kept = tonumber(ARGV[2])
local holds = 6
local writes = holds + 3 * ARGV[3]
local messages = writes + 8 * ARGV[4]
local finish = messages + 2 * ARGV[5]
for i = holds, writes - 1, 3 do
  local holder = call('GET', base .. 'l:' .. ARGV[i])
  if holder ~= ARGV[i + 1] or not lives(holder) then return {'lost', ARGV[i]} end
end
local rows = {}
local changes = false
for i = writes, messages - 1, 8 do
  local row = call('HMGET', base .. 's:' .. ARGV[i], 'v', 't', 'x', 'g')
  local found = effective(row[1], row[2]) or ''
  if ARGV[i + 1] == '' and expired(row[3]) then found = '' end
  if found ~= ARGV[i + 1] then return {'conflict', ARGV[i], found, ARGV[i + 1]} end
  rows[i] = row
  changes = changes or row[1] or ARGV[i + 3] == '1'
end
-- First what Redis would refuse when it has no room, or is a replica: it refuses all of it then, and not a part.
local sequence = whole(changes and call('INCR', base .. 'seq') or tonumber(call('GET', base .. 'seq') or '0'))
for i = writes, messages - 1, 8 do
  local key, row = ARGV[i], rows[i]
  local state = base .. 's:' .. key
  local group = ARGV[i + 6] == '1' and ARGV[i + 7]
  if row[1] then
    call('DEL', state)
    if row[4] ~= group or ARGV[i + 3] ~= '1' then leave_group(row[4], key) end
  end
  if ARGV[i + 3] == '1' then
    local life = ''
    call('HSET', state, 'v', ARGV[i + 2], 'd', ARGV[i + 4], 'q', sequence, 't', timeline)
    if ARGV[i + 5] ~= '' then
      local ttl = tonumber(ARGV[i + 5])
      -- Of a note, which has no epoch and is written once, nobody has a copy that it could come back by.
      life = math.max(1, ttl + (string.match(ARGV[i + 2], ' $') and 0 or kept))
      call('HSET', state, 'x', whole(now + ttl))
      call('PEXPIRE', state, whole(life))
    end
    if group then
      local members = base .. 'g:' .. group
      call('HSET', state, 'g', group)
      -- What has expired is taken out two by two, or a group that nobody reads would grow for ever.
      for _, old in ipairs(call('ZRANGE', members, 0, 1)) do
        if call('EXISTS', base .. 's:' .. old) == 0 then call('ZREM', members, old) end
      end
      if call('ZADD', members, sequence, key) == 1 and life ~= '' and call('ZCARD', members) == 1 then
        call('PEXPIRE', members, whole(life))
      else
        keep_group(members, life)
      end
    end
  end
end
for i = messages, finish - 1, 2 do
  call('PUBLISH', base .. 'c:' .. ARGV[i], ARGV[finish] .. ' ' .. sequence .. ' ' .. ARGV[i + 1])
end
local wanted = {}
for i = holds, writes - 1, 3 do
  if ARGV[i + 2] == '1' then
    call('DEL', base .. 'n:' .. ARGV[i])
    call('PEXPIRE', base .. 'l:' .. ARGV[i], week)
    if call('EXISTS', base .. 'w:' .. ARGV[i]) == 1 then wanted[#wanted + 1] = ARGV[i] end
  else
    release(ARGV[i], true)
  end
end
return {'done', sequence, wanted}
""",
)

# ARGV: time; how long what is expired is kept, in ms; '1' to give nothing less time than it has; key, time to live in
# ms, key, time to live...
TOUCH: Final = Script(
    _BASE,
    _TIMELINE,
    _STATES,
    _GROUPS,
    """
for i = 4, #ARGV, 2 do
  local state = base .. 's:' .. ARGV[i]
  local found = call('HMGET', state, 'v', 'g', 'x')
  local ends = found[3] and tonumber(found[3]) or math.huge
  local later = ARGV[i + 1] == '' or ends < now + tonumber(ARGV[i + 1])
  if found[1] and (later or ARGV[3] == '') then
    local life = ''
    if ARGV[i + 1] == '' then
      call('HDEL', state, 'x')
      call('PERSIST', state)
    else
      local ttl = tonumber(ARGV[i + 1])
      life = math.max(1, ttl + ARGV[2])
      call('HSET', state, 'x', whole(now + ttl))
      call('PEXPIRE', state, whole(life))
    end
    if found[2] then keep_group(base .. 'g:' .. found[2], life) end
  end
end
""",
)

# ARGV: keys
DELETE: Final = Script(
    _BASE,
    _TIMELINE,
    _GROUPS,
    """
for i = 1, #ARGV do
  leave_group(call('HGET', base .. 's:' .. ARGV[i], 'g'), ARGV[i])
  call('DEL', base .. 's:' .. ARGV[i])
end
""",
)

# A lock that the fence has already counts as taken: the script may be run again. The keys are taken in their order, up
# to the first that another has.
# ARGV: time; fence; how many keys; each as key, known version; keys to look for
LOCK: Final = Script(
    _BASE,
    _TIMELINE,
    _STATES,
    _LOCKS,
    """
local fence = ARGV[2]
local look = 4 + 2 * ARGV[3]
if not lives(fence) then return {'buried'} end
if call('EXISTS', base .. 'c:' .. fence) == 1 then return {'given up'} end
for i = 4, look - 1, 2 do
  local key = ARGV[i]
  local lock, queue = base .. 'l:' .. key, base .. 'w:' .. key
  local holder = call('GET', lock)
  if holder and holder ~= fence and not lives(holder) then
    call('SET', base .. 'n:' .. key, '1', 'PX', week)
    release(key, false)
    holder = call('GET', lock)
  end
  if not holder then
    call('SET', lock, fence, 'PX', week)
  elseif holder ~= fence then
    if not call('LPOS', queue, fence) then
      call('RPUSH', queue, fence)
      call('PEXPIRE', queue, week)
    end
    return {'wait', key}
  end
end
local news, unclean, present, wanted = {}, {}, {}, {}
for i = 4, look - 1, 2 do
  local key = ARGV[i]
  tell_news(news, key, ARGV[i + 1])
  if call('EXISTS', base .. 'n:' .. key) == 1 then unclean[#unclean + 1] = key end
  if call('EXISTS', base .. 'w:' .. key) == 1 then wanted[#wanted + 1] = key end
end
for i = look, #ARGV do
  local row = call('HMGET', base .. 's:' .. ARGV[i], 'v', 'x')
  if row[1] and not expired(row[2]) then present[#present + 1] = ARGV[i] end
end
return {'had', news, unclean, present, wanted}
""",
)

# ARGV: how ('clean', 'unclean', 'unused', or 'unknown' where Redis may see the request for the locks only later); key,
# fence, key, fence...
GIVE_BACK: Final = Script(
    _BASE,
    _TIMELINE,
    _LOCKS,
    """
for i = 2, #ARGV, 2 do
  local key, fence = ARGV[i], ARGV[i + 1]
  if ARGV[1] == 'unknown' then call('SET', base .. 'c:' .. fence, '1', 'EX', 600) end
  if call('GET', base .. 'l:' .. key) == fence then
    if ARGV[1] == 'unclean' then call('SET', base .. 'n:' .. key, '1', 'PX', week) end
    release(key, ARGV[1] == 'clean')
  else
    call('LREM', base .. 'w:' .. key, 0, fence)
  end
end
""",
)

# ARGV: member; what it tells of itself
JOIN: Final = Script(
    _BASE,
    _TIMELINE,
    """
call('HSET', base .. 'members', ARGV[1], '0 ' .. ARGV[2])
return timeline
""",
)

# ARGV: member; what it tells of itself
BEAT: Final = Script(
    _BASE,
    _TIMELINE,
    """
local members = base .. 'members'
local mine = call('HGET', members, ARGV[1])
if not mine then return {timeline} end
call('HSET', members, ARGV[1], whole(string.match(mine, '^%d+') + 1) .. ' ' .. ARGV[2])
local sequence = call('GET', base .. 'seq') or '0'
call('PUBLISH', base .. '@' .. ARGV[1], 'beat ' .. sequence)
return {timeline, sequence, call('HGETALL', members)}
""",
)

# ARGV: member; its beat as it was seen last, too long ago
BURY: Final = Script(
    _BASE,
    _TIMELINE,
    """
local members = base .. 'members'
local beat = call('HGET', members, ARGV[1])
if not beat or string.match(beat, '^%d+') ~= ARGV[2] then return 0 end
call('HDEL', members, ARGV[1])
call('PUBLISH', base .. '@all', 'gone ' .. ARGV[1])
return 1
""",
)

# ARGV: member
LEAVE: Final = Script(
    _BASE,
    """
if call('HDEL', base .. 'members', ARGV[1]) == 1 then call('PUBLISH', base .. '@all', 'gone ' .. ARGV[1]) end
""",
)
