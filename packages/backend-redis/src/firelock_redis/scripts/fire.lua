-- A recurring definition has fired: its jobs are stored and its progress replaced, once. Behind lib.lua, jobs.lua,
-- children.lua, storing.lua and recurring_lib.lua.
--
-- KEYS  1 base; derived: those of store.lua and recurring_lib.lua; publishes on wake
-- ARGV  1 clock offset, 2 what follows from a parent's end, 3 id of the definition, 4 its version, 5 the expected next_at,
--       6 the new one or nothing, 7 progress, 8 number of jobs, then the jobs as storing.lua says
-- Reply 1, 0 where the definition has moved on; or a job's id and that of its unknown parent

if not may_fire(ARGV[3], ARGV[4], ARGV[5]) then return 0 end

read_rules(ARGV[2])
local answers, missing = store(9, tonumber(ARGV[8]))
if not answers then return missing end
fired(ARGV[3], ARGV[6], ARGV[7])
return 1
