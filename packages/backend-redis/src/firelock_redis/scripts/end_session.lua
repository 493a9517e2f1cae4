-- The session is dead for ever, and gives back what it holds in the first partition. Behind lib.lua, jobs.lua and
-- taking.lua; in the first partition.
--
-- Where that is not all, `ending` remembers it until ended.lua, with what it takes to go on: whoever comes next does.
--
-- KEYS  1 base; derived: those of jobs.lua, s:<session> and those of begin_session.lua; ending ZSET of dead sessions that
--       may hold something, by the instant of their death; publishes on wake
-- ARGV  1 clock offset, 2 session, 3 ids of running jobs as JSON, null for not known, 4 reason as JSON, 5 reason of jobs
--       that had not started as JSON, 6 limit of jobs, 7 where there are other partitions: 1, 8 where only an expired one
--       is ended: 1
-- Reply nil where nothing is to be done; else the server as JSON, 1 where it is not all, running and reason as they were
--       at first, ids of jobs that got a crash, ids of the others

call('DEL', base .. 'none')  -- a first write that needs no memory: what drains goes on when it is full

local now, session, running, reason = int(clock(ARGV[1])), ARGV[2], ARGV[3], ARGV[4]
local key = base .. 's:' .. session
local alive, token, expires_at = unpack(call('HMGET', key, 'alive', 'token', 'expires_at'))
if alive == '1' then
  if ARGV[8] == '1' and tonumber(expires_at) > tonumber(now) then return false end
  call('HSET', key, 'alive', '0')
  call('ZREM', base .. 'sx', session)
  call('ZADD', base .. 'sd', now, session)
elseif call('ZSCORE', base .. 'ending', session) then
  running, reason = unpack(call('HMGET', key, 'running', 'reason'))
else
  return false
end

local crashed, returned, more = take(session, running, reason, ARGV[5], now, tonumber(ARGV[6]))
if ARGV[7] == '1' then more = 1 end
if more == 1 then
  call('HSET', key, 'running', running, 'reason', reason)
  call('ZADD', base .. 'ending', now, session)
end
return { token, more, running, reason, crashed, returned }
