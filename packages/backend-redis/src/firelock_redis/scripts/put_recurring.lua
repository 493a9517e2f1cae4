-- The definition is stored if its version has not moved on. Behind lib.lua and recurring_lib.lua.
--
-- KEYS  1 base; derived: rec:<id> recs rdue (see recurring_lib.lua); publishes on wake
-- ARGV  1 id, 2 expected version, 0 for none, 3 new version, 4 definition, 5 paused, 6 next_at, 7 progress,
--       8 where the stored progress stays: 1
-- Reply next_at, progress as they are now; nil where the version had moved on

local id, next_at, progress = ARGV[1], ARGV[6], ARGV[7]
local stored = recurring(id)
if (stored[1] or '0') ~= ARGV[2] then return false end

if ARGV[8] == '1' and stored[1] then next_at, progress = stored[4], stored[5] end
call('HSET', base .. 'rec:' .. id, 'version', ARGV[3], 'definition', ARGV[4], 'paused', ARGV[5], 'next_at', next_at,
  'progress', progress)
call('ZADD', base .. 'recs', 0, id)
set_next(id, ARGV[5], next_at)
return { next_at, progress }
