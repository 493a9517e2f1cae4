-- How the keys of a prefix are laid out, written once. Behind lib.lua.
--
-- KEYS  1 base of the first partition; derived: layout HASH version, partitions
-- ARGV  1 version, 2 number of partitions, 3 where it is to be written if there is none: 1
-- Reply version and number of partitions as stored, 0 and 0 for none

local stored = call('HMGET', base .. 'layout', 'version', 'partitions')
if not stored[1] and ARGV[3] == '1' then
  call('DEL', base .. 'none')  -- a first write that needs no memory: a full server is told by what follows
  call('HSET', base .. 'layout', 'version', ARGV[1], 'partitions', ARGV[2])
  stored = { ARGV[1], ARGV[2] }
end
return { tonumber(stored[1] or 0), tonumber(stored[2] or 0) }
