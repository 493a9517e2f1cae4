-- Which sessions live, and which do not any more, without their jobs. Behind library.lua alone: idle servers ask nothing as
-- often as this, and each function in front of a script costs a call of it. The keys are those of sessions.lua.

local verbs = {}

-- Each living session lives for its timeout from now. ARGV from 3: a RENEW for each. Reply for each 1 where it
-- lives, 0 where it is dead or unknown.
function verbs.renew()
  despite_full_memory()
  local now, reply = clock(), {}
  for arg = 3, #ARGV, RENEW.width do
    local session = ARGV[arg + RENEW.session]
    local key = base .. 's:' .. session
    local alive, timeout = unpack(call('HMGET', key, 'alive', 'timeout'))
    if alive == '1' then
      local expires_at = int(now + timeout)
      call('HSET', key, 'expires_at', expires_at, 'renewal', ARGV[arg + RENEW.renewal])
      call('ZADD', base .. 'sx', expires_at, session)
      call('ZADD', base .. 'sb', int(expires_at - 2 * timeout), session)
    end
    reply[#reply + 1] = alive == '1' and 1 or 0
  end
  return reply
end

-- The session as a SESSION, nil where it is gone.
local function told(session)
  local info, expires_at, alive, renewal, running =
    unpack(call('HMGET', base .. 's:' .. session, 'info', 'expires_at', 'alive', 'renewal', 'running'))
  return info and {
    [SESSION.info] = info, [SESSION.expires_at] = expires_at, [SESSION.alive] = alive, [SESSION.renewal] = renewal,
    [SESSION.running] = running,
  }
end

-- The living session that is first by started_at; reply a SESSION, nil for none.
function verbs.oldest()
  local session = call('ZRANGE', base .. 'sl', 0, 0)[1]
  return session and told(session)
end

-- Sessions, oldest first, some at a time. ARGV from 3: nothing for all, or the sessions that are wanted. Reply those for a
-- further call; then a SESSION of each of the first ones, passing over who is gone.
function verbs.list(first)
  local wanted = first and words_from(3) or call('ZRANGE', base .. 'ss', 0, -1)
  local left, reply = {}, {}
  for place, session in ipairs(wanted) do
    if place > 500 then
      left[#left + 1] = session
    else
      reply[#reply + 1] = told(session) or nil
    end
  end
  return { left, reply }
end

-- Sessions that have to be ended: living ones that have expired, longest expired first; then dead ones whose end was begun
-- so many micros ago and not finished, so that its maker is given up. Expired is who would live until the past, by this
-- clock and by the caller's, or for longer than any session lives.
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

-- The sessions that may claim in this partition, which is any but the first.
function verbs.living()
  return call('SMEMBERS', base .. 'living')
end

return run(verbs)
