-- The record is stored as its next version. Behind lib.lua and pause_lib.lua.
--
-- KEYS  1 base; derived: k:<kind> HASH key -> "version value"; kz:<kind> ZSET of its keys, for their order;
--       kd:<kind> ZSET of deleted keys by their last version and kf:<kind>, the highest version of those that were
--       forgotten (see delete_record.lua); paused pausing (see pause_lib.lua); publishes on wake
-- ARGV  1 kind, 2 key, 3 value, 4 expected version or nothing,
--       5 where the kind is queue: 1 if the value pauses it, else 0; nothing for another kind
-- Reply the version; nil where another one was expected

local kind, key, paused = ARGV[1], ARGV[2], ARGV[5]
local stored = call('HGET', base .. 'k:' .. kind, key)
local version = stored and match(stored, '^%d+') or '0'
if ARGV[4] ~= '' and ARGV[4] ~= version then return false end

-- A first write that needs no memory: a queue is resumed when memory is full, for that is what drains it.
if paused ~= '' then call('DEL', base .. 'none') end
if not stored then version = call('ZSCORE', base .. 'kd:' .. kind, key) or call('GET', base .. 'kf:' .. kind) or 0 end
version = int(version + 1)
call('HSET', base .. 'k:' .. kind, key, version .. ' ' .. ARGV[3])
if not stored then
  call('ZADD', base .. 'kz:' .. kind, 0, key)
  call('ZREM', base .. 'kd:' .. kind, key)
end
if paused ~= '' then set_pause(key, paused == '1') end
return version
