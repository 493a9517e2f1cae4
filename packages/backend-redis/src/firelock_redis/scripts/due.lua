-- What is due in this partition, and when something will be. Behind lib.lua and due_lib.lua.
--
-- KEYS  1 base; derived: due rdue pausing
-- ARGV  1 clock offset, 2 limit
-- Reply the next due instant or nothing; the stamp of the pauses known here (see pause_lib.lua); then the instants of up to
--       `limit` scheduled jobs that are due, oldest first

local reply = { next_due(), call('GET', base .. 'pausing') or '0' }
local due = call('ZRANGEBYSCORE', base .. 'due', '-inf', int(clock(ARGV[1])), 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for place = 2, #due, 2 do reply[#reply + 1] = due[place] end
return reply
