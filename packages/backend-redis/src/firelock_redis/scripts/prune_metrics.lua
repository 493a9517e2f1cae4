-- Up to `limit` minutes whose figures are older than thirty days are gone. Behind lib.lua.
--
-- KEYS  1 base; derived: m:<minute> mz (see record_metrics.lua)
-- ARGV  1 clock offset, 2 limit
-- Reply how many

local DAYS = 30 * 86400 * 1000000

local before = int(clock(ARGV[1]) - DAYS)
local minutes = call('ZRANGEBYSCORE', base .. 'mz', '-inf', '(' .. before, 'LIMIT', 0, ARGV[2])
local keys = {}
for place, minute in ipairs(minutes) do keys[place] = base .. 'm:' .. minute end
for first = 1, #keys, CHUNK do
  call('UNLINK', unpack(keys, first, math.min(first + CHUNK - 1, #keys)))
end
many('ZREM', base .. 'mz', minutes)
return #minutes
