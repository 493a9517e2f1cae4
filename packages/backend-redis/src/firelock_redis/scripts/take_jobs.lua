-- A dead session gives back what it holds in this partition. Behind lib.lua, jobs.lua and taking.lua.
--
-- In the first partition it was marked as dead before. In another one it is marked here, also where it was not known, and
-- so for longer than any claim or begin of it can be on its way.
--
-- KEYS  1 base; derived: those of jobs.lua, s:<session>, living (see admit_session.lua); publishes on wake
-- ARGV  1 clock offset, 2 session, 3 ids of running jobs as JSON, null for not known, 4 reason as JSON, 5 reason of jobs
--       that had not started as JSON, 6 limit of jobs, 7 milliseconds for which the mark stays, 0 for the first partition
-- Reply 1 where it holds more, ids of jobs that got a crash, ids of the others

call('DEL', base .. 'none')  -- a first write that needs no memory: what drains goes on when it is full

local session = ARGV[2]
if ARGV[7] ~= '0' then
  call('HSET', base .. 's:' .. session, 'alive', '0')
  call('PEXPIRE', base .. 's:' .. session, ARGV[7])
  call('SREM', base .. 'living', session)
end
local crashed, returned, more = take(session, ARGV[3], ARGV[4], ARGV[5], int(clock(ARGV[1])), tonumber(ARGV[6]))
return { more, crashed, returned }
