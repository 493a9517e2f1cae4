-- The session lives for its timeout from now; one that is known already stays as it is. Behind lib.lua; in the first
-- partition.
--
-- KEYS  1 base; derived: s:<session> HASH alive (1 or 0), token (the server's name as JSON), info (JSON), timeout in
--       micros, expires_at, renewal (JSON or nothing), while it ends also running and reason; ss ZSET of all sessions by
--       started_at; sx ZSET of the living ones by expires_at; sd ZSET of the dead ones by the instant of their death
-- ARGV  1 clock offset, 2 session, 3 token, 4 info, 5 started_at, 6 timeout in micros
-- Reply 1 where it lives, 0 where it is dead

call('DEL', base .. 'none')  -- a first write that needs no memory: a server that drains may begin when it is full

local key = base .. 's:' .. ARGV[2]
local alive = call('HGET', key, 'alive')
if alive then return tonumber(alive) end

local expires_at = int(clock(ARGV[1]) + ARGV[6])
call('HSET', key, 'alive', '1', 'token', ARGV[3], 'info', ARGV[4], 'timeout', ARGV[6], 'expires_at', expires_at,
  'renewal', '')
call('ZADD', base .. 'ss', ARGV[5], ARGV[2])
call('ZADD', base .. 'sx', expires_at, ARGV[2])
return 1
