-- Verbs of sessions that do not need jobs. Included after library.lua only, because these are the most frequent calls
-- of idle servers, and each included function makes the calls of a script slower. The keys are those of sessions.lua.

local verbs = {}

-- Renew sessions: the timeout of each living session starts again now. ARGV from 3: a RENEWED_SESSION for each. Return
-- for each session 1 if it is alive, 0 if it is dead or unknown.
function verbs.renew()
  despite_full_memory()
  local now, reply = clock(), {}
  for arg = 3, #ARGV, RENEWED_SESSION.width do
    local session = ARGV[arg + RENEWED_SESSION.session]
    local key = base .. 's:' .. session
    local alive, timeout = unpack(call('HMGET', key, 'alive', 'timeout'))
    if alive == '1' then
      local expires_at = int(now + timeout)
      call('HSET', key, 'expires_at', expires_at, 'renewal', ARGV[arg + RENEWED_SESSION.renewal])
      call('ZADD', base .. 'sx', expires_at, session)
      call('ZADD', base .. 'sb', int(expires_at - 2 * timeout), session)
    end
    reply[#reply + 1] = alive == '1' and 1 or 0
  end
  return reply
end

-- Return the session as a SESSION_REPLY, nil if it was deleted.
local function session_reply(session)
  local info, expires_at, alive, renewal, running =
    unpack(call('HMGET', base .. 's:' .. session, 'info', 'expires_at', 'alive', 'renewal', 'running'))
  return info and {
    [SESSION_REPLY.info] = info, [SESSION_REPLY.expires_at] = expires_at, [SESSION_REPLY.alive] = alive,
    [SESSION_REPLY.renewal] = renewal, [SESSION_REPLY.running] = running,
  }
end

-- Return the living session with the earliest started_at as a SESSION_REPLY, nil if there is none.
function verbs.oldest()
  local session = call('ZRANGE', base .. 'sl', 0, 0)[1]
  return session and session_reply(session)
end

-- List sessions in parts, oldest first. ARGV from 3: the requested sessions, none for all. Return the sessions for the
-- next call; then a SESSION_REPLY for each of the other sessions that still exists.
function verbs.list(first)
  local wanted = first and words_from(3) or call('ZRANGE', base .. 'ss', 0, -1)
  local left, reply = {}, {}
  for place, session in ipairs(wanted) do
    if place > 500 then
      left[#left + 1] = session
    else
      reply[#reply + 1] = session_reply(session) or nil
    end
  end
  return { left, reply }
end

-- Return the sessions that must be ended. The first list contains the living sessions that have expired, longest
-- expired first. The second list contains dead sessions that a process began to end at least `given_up` microseconds
-- ago without finishing; that process is considered dead. A session has expired if its expiry has passed by both this
-- clock and the caller's clock, or if the expiry is further in the future than a renewal can set it.
function verbs.orphans(limit, given_up, as_of)
  local now = clock()
  as_of = as_of == '1' and now or tonumber(as_of)
  local earliest, latest = math.min(now, as_of), math.max(now, as_of)
  local expired = call('ZRANGEBYSCORE', base .. 'sx', '-inf', int(earliest), 'LIMIT', 0, limit)
  for _, session in ipairs(call('ZRANGEBYSCORE', base .. 'sb', '(' .. int(latest), '+inf', 'LIMIT', 0, limit)) do
    expired[#expired + 1] = session
  end
  return { expired, call('ZRANGEBYSCORE', base .. 'ending', '-inf', int(now - given_up), 'LIMIT', 0, limit) }
end

-- Return the sessions that may claim in this partition, which must not be the first one.
function verbs.living()
  return call('SMEMBERS', base .. 'living')
end

return run(verbs)
