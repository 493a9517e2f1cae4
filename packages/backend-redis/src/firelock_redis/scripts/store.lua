-- Jobs of any kind are stored, all of them or none. Behind lib.lua, jobs.lua, children.lua and storing.lua.
--
-- KEYS  1 base; derived: those of jobs.lua and children.lua; publishes on wake
-- ARGV  1 clock offset, 2 what follows from a parent's end (see children.lua), 3 number of jobs, then the jobs as
--       storing.lua says
-- Reply for each job 1 where it is new, 0 where it was there; or nothing but a job's id and that of its unknown parent

read_rules(ARGV[2])
local answers, missing = store(4, tonumber(ARGV[3]))
return answers or missing
