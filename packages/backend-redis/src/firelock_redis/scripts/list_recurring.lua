-- Recurring definitions in order of id. Behind lib.lua and recurring_lib.lua.
--
-- KEYS  1 base; derived: rec:<id> recs (see recurring_lib.lua)
-- ARGV  1 the id that those listed come after, 2 limit
-- Reply what `several` says

return several(call('ZRANGEBYLEX', base .. 'recs', '(' .. ARGV[1], '+', 'LIMIT', 0, ARGV[2]))
