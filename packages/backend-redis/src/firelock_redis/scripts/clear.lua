-- Some of the keys of a partition are gone. Behind lib.lua.
--
-- KEYS  1 base; derived: everything below it
-- ARGV  1 cursor, 0 at first, 2 pattern of the partition's keys, 3 how many to look at
-- Reply the next cursor, 0 when all were looked at

local found = call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
for first = 1, #found[2], CHUNK do
  call('UNLINK', unpack(found[2], first, math.min(first + CHUNK - 1, #found[2])))
end
return found[1]
