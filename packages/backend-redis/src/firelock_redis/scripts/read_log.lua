-- Lines of a job's log in order. Behind lib.lua.
--
-- KEYS  1 base; derived: g:<id> (see append_logs.lua)
-- ARGV  1 id, 2 the number that those read come after, 3 limit
-- Reply the lines, each "number line"

local key = base .. 'g:' .. ARGV[1]
local oldest = call('LINDEX', key, 0)
if not oldest then return {} end

-- Numbers have no gaps, so the oldest one tells where each of them is.
local start = math.max(0, tonumber(ARGV[2]) + 1 - tonumber(match(oldest, '^%d+')))
return call('LRANGE', key, int(start), int(start + tonumber(ARGV[3]) - 1))
