"""The Lua scripts that Redis runs for the store. Redis runs each as a whole: no other command comes in between.

`rules` says which keys they use and how values are written.
"""

from __future__ import annotations

import hashlib
from typing import Final

from .rules import GROUPS, LOCKS, NAMES, STATES, TIMELINE


class Script:
    """A script, with its name in Redis (`sha`). Lifetime: the module."""

    __slots__ = ("sha", "text")

    def __init__(self, *parts: str) -> None:
        self.text = "\n".join(part.strip() for part in parts).encode()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


# -- connections -------------------------------------------------------------------------------------------------------

# Sent over each new connection before anything else. A server that has started since the last greeting may have lost
# data: a new timeline begins then, without members.
# ARGV: the server's run id, or empty; an id for a new timeline; the last timeline and its highest known sequence number
# Returns the timeline and its last sequence number.
HELLO: Final = Script(
    NAMES,
    """
local run = call('GET', base .. 'run')
local timeline = call('GET', base .. 'timeline')
local sequence = last_sequence()
if ARGV[1] ~= '' and run and run ~= '' and run ~= ARGV[1] then timeline = false end
if timeline == ARGV[3] and sequence < tonumber(ARGV[4]) then timeline = false end
if not timeline then
  timeline = ARGV[2]
  call('SET', base .. 'timeline', timeline)
  call('DEL', members)
end
local started = ARGV[1] ~= '' and ARGV[1] or run or ''
if run ~= started then call('SET', base .. 'run', started) end
call('DEL', base .. 'none') -- a replica refuses this; a Redis that is out of memory does not
return {timeline, whole(sequence)}
""",
)


# -- states ------------------------------------------------------------------------------------------------------------

# ARGV: time; key, known version, key, known version...
# Returns what is stored under the keys whose version is not the known one: see `rules.read_news`.
NEWS: Final = Script(
    TIMELINE + STATES,
    """
local news = {}
for i = 2, #ARGV, 2 do add_news(news, ARGV[i], ARGV[i + 1]) end
return news
""",
)

# ARGV: time; group; lowest score; how many keys
# Returns how many keys were looked at, the first and the last score, and the states, each as key, version, data, ms
# until it expires.
PAGE: Final = Script(
    TIMELINE + STATES,
    """
local group = groups .. ARGV[2]
local page = call('ZRANGEBYSCORE', group, ARGV[3], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[4])
local rows = {}
for i = 1, #page, 2 do
  local key = page[i]
  local row = call('HMGET', states .. key, 'v', 't', 'x', 'g', 'd')
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
# Returns the sequence number of the last commit of each key, nil for a key that holds nothing.
SEQUENCES: Final = Script(
    TIMELINE,
    """
local found = {}
for i = 1, #ARGV do found[i] = call('HGET', states .. ARGV[i], 'q') end
return found
""",
)

# ARGV: time; how many holds, writes and messages follow; each hold as key, fence, '1' to keep the lock; each write as
# key, expected version, version, '1' for data, data, ms to live, '1' for a group, group; each message as topic, body;
# last, the origin of the sender.
# Returns 'done', the sequence number and the kept keys that others wait for; or 'lost' and the key of a lost lock; or
# 'conflict', a key, its stored version and its expected version. Only with 'done' has anything changed.
COMMIT: Final = Script(
    TIMELINE + STATES + GROUPS + LOCKS,
    """
local holds = 5
local writes = holds + 3 * ARGV[2]
local messages = writes + 8 * ARGV[3]
local finish = messages + 2 * ARGV[4]
for i = holds, writes - 1, 3 do
  local holder = call('GET', locks .. ARGV[i])
  if holder ~= ARGV[i + 1] or not lives(holder) then return {'lost', ARGV[i]} end
end
local rows = {}
local changes = false
for i = writes, messages - 1, 8 do
  local row = call('HMGET', states .. ARGV[i], 'v', 't', 'x', 'g')
  local found = effective(row[1], row[2]) or ''
  if ARGV[i + 1] == '' and expired(row[3]) then found = '' end
  if found ~= ARGV[i + 1] then return {'conflict', ARGV[i], found, ARGV[i + 1]} end
  rows[i] = row
  changes = changes or row[1] or ARGV[i + 3] == '1'
end
-- First a command that a replica, or a Redis that is out of memory, refuses: then it refuses all, and not a part.
local sequence = whole(changes and call('INCR', base .. 'seq') or last_sequence())
for i = writes, messages - 1, 8 do
  local key, row = ARGV[i], rows[i]
  local state = states .. key
  local group = ARGV[i + 6] == '1' and ARGV[i + 7]
  if row[1] then
    call('DEL', state)
    if row[4] ~= group or ARGV[i + 3] ~= '1' then leave_group(row[4], key) end
  end
  if ARGV[i + 3] == '1' then
    call('HSET', state, 'v', ARGV[i + 2], 'd', ARGV[i + 4], 'q', sequence, 't', timeline)
    local life = ARGV[i + 5] == '' and '' or expire(state, ARGV[i + 2], tonumber(ARGV[i + 5]))
    if group then
      local keys = groups .. group
      call('HSET', state, 'g', group)
      -- Each write removes up to two expired keys, or a group that nobody reads would grow for ever.
      for _, old in ipairs(call('ZRANGE', keys, 0, 1)) do
        if call('EXISTS', states .. old) == 0 then call('ZREM', keys, old) end
      end
      if call('ZADD', keys, sequence, key) == 1 and life ~= '' and call('ZCARD', keys) == 1 then
        call('PEXPIRE', keys, whole(life))
      else
        keep_group(keys, life)
      end
    end
  end
end
for i = messages, finish - 1, 2 do publish(ARGV[i], ARGV[finish], sequence, ARGV[i + 1]) end
local wanted = {}
for i = holds, writes - 1, 3 do
  if ARGV[i + 2] == '1' then
    call('DEL', notes .. ARGV[i])
    call('PEXPIRE', locks .. ARGV[i], week)
    if call('EXISTS', queues .. ARGV[i]) == 1 then wanted[#wanted + 1] = ARGV[i] end
  else
    release(ARGV[i], true)
  end
end
return {'done', sequence, wanted}
""",
)

# ARGV: time; '1' to shorten no time to live; key, ms to live, key, ms to live...
TOUCH: Final = Script(
    TIMELINE + STATES + GROUPS,
    """
for i = 3, #ARGV, 2 do
  local state, ttl = states .. ARGV[i], tonumber(ARGV[i + 1])
  local found = call('HMGET', state, 'v', 'g', 'x')
  local ends = found[3] and tonumber(found[3]) or math.huge
  if found[1] and (ARGV[2] == '' or not ttl or ends < now + ttl) then
    local life = ''
    if ttl then
      life = expire(state, found[1], ttl)
    else
      call('HDEL', state, 'x')
      call('PERSIST', state)
    end
    if found[2] then keep_group(groups .. found[2], life) end
  end
end
""",
)

# ARGV: keys
DELETE: Final = Script(
    TIMELINE + GROUPS,
    """
for i = 1, #ARGV do
  leave_group(call('HGET', states .. ARGV[i], 'g'), ARGV[i])
  call('DEL', states .. ARGV[i])
end
""",
)


# -- locks -------------------------------------------------------------------------------------------------------------

# Takes the keys in their order, up to the first that another fence holds. A lock that the fence already holds counts as
# taken, so the script may be sent again.
# ARGV: time; fence; how many keys to lock; each as key, known version; then keys to look for
# Returns 'had', the news (see `rules.read_news`), and the keys that are unclean, present, and wanted by others; or
# 'wait' and the key to wait for; or 'buried' if the process counts as dead; or 'given up' if the request does.
LOCK: Final = Script(
    TIMELINE + STATES + LOCKS,
    """
local fence = ARGV[2]
local look = 4 + 2 * ARGV[3]
if not lives(fence) then return {'buried'} end
if call('EXISTS', given_up .. fence) == 1 then return {'given up'} end
for i = 4, look - 1, 2 do
  local key = ARGV[i]
  local lock, queue = locks .. key, queues .. key
  local holder = call('GET', lock)
  if holder and holder ~= fence and not lives(holder) then
    call('SET', notes .. key, '1', 'PX', week)
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
  add_news(news, key, ARGV[i + 1])
  if call('EXISTS', notes .. key) == 1 then unclean[#unclean + 1] = key end
  if call('EXISTS', queues .. key) == 1 then wanted[#wanted + 1] = key end
end
for i = look, #ARGV do
  local row = call('HMGET', states .. ARGV[i], 'v', 'x')
  if row[1] and not expired(row[2]) then present[#present + 1] = ARGV[i] end
end
return {'had', news, unclean, present, wanted}
""",
)

# ARGV: how the locks were used ('clean', 'unclean', 'unused', or 'unknown' if Redis may receive the request for them
# later than this); key, fence, key, fence...
GIVE_BACK: Final = Script(
    TIMELINE + LOCKS,
    """
for i = 2, #ARGV, 2 do
  local key, fence = ARGV[i], ARGV[i + 1]
  if ARGV[1] == 'unknown' then call('SET', given_up .. fence, '1', 'EX', 600) end
  if call('GET', locks .. key) == fence then
    if ARGV[1] == 'unclean' then call('SET', notes .. key, '1', 'PX', week) end
    release(key, ARGV[1] == 'clean')
  else
    call('LREM', queues .. key, 0, fence)
  end
end
""",
)


# -- members -----------------------------------------------------------------------------------------------------------

# ARGV: origin; what the process tells the others
# Returns the timeline.
JOIN: Final = Script(
    TIMELINE,
    """
call('HSET', members, ARGV[1], '0 ' .. ARGV[2])
return timeline
""",
)

# ARGV: origin; what the process tells the others
# Returns the timeline, the last sequence number and all members; the timeline alone if the process is not one of them.
BEAT: Final = Script(
    TIMELINE,
    """
local mine = call('HGET', members, ARGV[1])
if not mine then return {timeline} end
call('HSET', members, ARGV[1], whole(string.match(mine, '^%d+') + 1) .. ' ' .. ARGV[2])
local sequence = whole(last_sequence())
notify(ARGV[1], 'beat ' .. sequence)
return {timeline, sequence, call('HGETALL', members)}
""",
)

# ARGV: origin; its number of beats when it was last seen, too long ago
# Returns 1 if the process had not beaten since, and is no longer a member.
BURY: Final = Script(
    TIMELINE,
    """
local beat = call('HGET', members, ARGV[1])
if not beat or string.match(beat, '^%d+') ~= ARGV[2] then return 0 end
call('HDEL', members, ARGV[1])
notify('all', 'gone ' .. ARGV[1])
return 1
""",
)

# ARGV: origin
LEAVE: Final = Script(
    NAMES,
    "if call('HDEL', members, ARGV[1]) == 1 then notify('all', 'gone ' .. ARGV[1]) end",
)
