-- A session that lives by the first partition may claim in this one; not if it is known, and perhaps dead. Behind lib.lua.
--
-- KEYS  1 base; derived: s:<session> HASH alive, token (see begin_session.lua); living SET of the sessions that live here
-- ARGV  1 session, 2 token
-- Reply 1

call('DEL', base .. 'none')  -- a first write that needs no memory: a server that drains may begin when it is full

local key = base .. 's:' .. ARGV[1]
if call('EXISTS', key) == 0 then
  call('HSET', key, 'alive', '1', 'token', ARGV[2])
  call('SADD', base .. 'living', ARGV[1])
end
return 1
