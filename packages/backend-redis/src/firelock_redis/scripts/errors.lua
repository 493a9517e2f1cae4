-- The failed attempts of a job, oldest first. Behind lib.lua.
--
-- KEYS  1 base; derived: e:<id> (see jobs.lua)
-- ARGV  1 id
-- Reply for each: its number, a tab, and JSON of at, type, message, fingerprint and traceback

return call('LRANGE', base .. 'e:' .. ARGV[1], 0, -1)
