-- The definition is gone. Behind lib.lua.
--
-- KEYS  1 base; derived: rec:<id> recs rdue (see recurring_lib.lua)
-- ARGV  1 id
-- Reply 1, 0 where there was none

call('ZREM', base .. 'recs', ARGV[1])
call('ZREM', base .. 'rdue', ARGV[1])
return call('DEL', base .. 'rec:' .. ARGV[1])
