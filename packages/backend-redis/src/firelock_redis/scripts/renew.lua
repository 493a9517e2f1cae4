-- Each living session lives for its timeout from now. Behind lib.lua; in the first partition.
--
-- KEYS  1 base; derived: s:<session> sx (see begin_session.lua)
-- ARGV  1 clock offset, then for each: session, renewal
-- Reply for each 1 where it lives, 0 where it is dead or unknown

call('DEL', base .. 'none')  -- a first write that needs no memory: who runs goes on when it is full

local now, reply = clock(ARGV[1]), {}
for arg = 2, #ARGV, 2 do
  local session = ARGV[arg]
  local key = base .. 's:' .. session
  local alive, timeout = unpack(call('HMGET', key, 'alive', 'timeout'))
  if alive == '1' then
    local expires_at = int(now + timeout)
    call('HSET', key, 'expires_at', expires_at, 'renewal', ARGV[arg + 1])
    call('ZADD', base .. 'sx', expires_at, session)
  end
  reply[#reply + 1] = alive == '1' and 1 or 0
end
return reply
