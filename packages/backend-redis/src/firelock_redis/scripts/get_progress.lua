-- The progress of jobs. Behind lib.lua.
--
-- KEYS  1 base; derived: o:<id> (see append_logs.lua)
-- ARGV  ids, at most a thousand
-- Reply for each: its progress, nil where there is none

local keys = {}
for place, id in ipairs(ARGV) do keys[place] = base .. 'o:' .. id end
return call('MGET', unpack(keys))
