-- The figures of some minutes, in order of minute: whole minutes, as many as hold five hundred rollups together, but at
-- least one and no more than five hundred. Behind lib.lua.
--
-- KEYS  1 base; derived: m:<minute> mz (see record_metrics.lua)
-- ARGV  1 first minute, 2 the minute where it ends, that one not included,
--       3 what the fields of a task begin with, or nothing; 4 what the fields of a queue contain, or nothing
-- Reply where to go on, nothing at the end; then for each minute: it, its fields and figures

local ROLLUPS, MINUTES = 500, 500

local function wanted(field)
  return (ARGV[3] == '' or find(field, ARGV[3], 1, true) == 1)
    and (ARGV[4] == '' or find(field, ARGV[4], 1, true) ~= nil)
end

local minutes = call('ZRANGEBYSCORE', base .. 'mz', ARGV[1], '(' .. ARGV[2], 'LIMIT', 0, MINUTES + 1)
local reply, seen = { '' }, 0
for place, minute in ipairs(minutes) do
  if seen >= ROLLUPS or place > MINUTES then
    reply[1] = minute
    break
  end
  local stored, found = call('HGETALL', base .. 'm:' .. minute), {}
  for field = 1, #stored, 2 do
    seen = seen + 1
    if wanted(stored[field]) then
      found[#found + 1] = stored[field]
      found[#found + 1] = stored[field + 1]
    end
  end
  reply[#reply + 1] = minute
  reply[#reply + 1] = found
end
return reply
