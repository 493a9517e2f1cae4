-- Recurring definitions that are due and not paused, longest due first. Behind lib.lua and recurring_lib.lua.
--
-- KEYS  1 base; derived: rec:<id> rdue (see recurring_lib.lua)
-- ARGV  1 clock offset, 2 how many of them to pass over, 3 limit
-- Reply what `several` says

local now = int(clock(ARGV[1]))
return several(call('ZRANGEBYSCORE', base .. 'rdue', '-inf', now, 'LIMIT', ARGV[2], ARGV[3]))
