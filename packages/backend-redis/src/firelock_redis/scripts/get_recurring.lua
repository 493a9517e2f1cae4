-- One recurring definition. Behind lib.lua and recurring_lib.lua.
--
-- KEYS  1 base; derived: rec:<id> (see recurring_lib.lua)
-- ARGV  1 id
-- Reply version, definition, paused, next_at, progress; the first is nil where there is none

return recurring(ARGV[1])
