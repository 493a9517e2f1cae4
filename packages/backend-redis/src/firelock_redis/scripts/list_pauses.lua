-- Every paused queue. Behind lib.lua; in the first partition.
--
-- KEYS  1 base; derived: paused pausing (see pause_lib.lua)
-- ARGV  1 the latest stamp that another partition has, 0 for not known: where it is later than the one here, that one was
--       lost in a failover, and what is here gets a stamp behind it
-- Reply stamp, then the names

local stamp = call('GET', base .. 'pausing') or '0'
if tonumber(stamp) < tonumber(ARGV[1]) then
  call('DEL', base .. 'none')  -- a first write that needs no memory: a queue is resumed when memory is full
  stamp = int(ARGV[1] + 1)
  call('SET', base .. 'pausing', stamp)
end
local reply = call('SMEMBERS', base .. 'paused')
table.insert(reply, 1, stamp)
return reply
