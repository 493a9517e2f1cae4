-- Whether there is something to claim. Behind lib.lua.
--
-- KEYS  1 base; derived: r:<queue> work paused
-- ARGV  the queues, none for every one
-- Reply 1 or 0

for _, queue in ipairs(#ARGV > 0 and ARGV or call('SMEMBERS', base .. 'work')) do
  if call('EXISTS', base .. 'r:' .. queue) == 1 and call('SISMEMBER', base .. 'paused', queue) == 0 then return 1 end
end
return 0
