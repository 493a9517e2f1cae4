-- The record is gone; its version is remembered, so that a later put goes on from it. Behind lib.lua and pause_lib.lua.
--
-- Of one kind the REMEMBERED highest versions of deleted keys are kept by key. Of the rest only the highest one of all
-- is kept, from which every key goes on that is not known: their versions never fall either, they only grow faster.
--
-- KEYS  1 base; derived: k:<kind> kz:<kind> kd:<kind> kf:<kind> (see put_record.lua)
--       paused pausing (see pause_lib.lua); publishes on wake
-- ARGV  1 kind, 2 key, 3 expected version or nothing, 4 where the kind is queue: 1, else 0
-- Reply the version that was deleted; nil where there was none or another one was expected

local REMEMBERED = 1000

local kind, key = ARGV[1], ARGV[2]
local stored = call('HGET', base .. 'k:' .. kind, key)
local version = stored and match(stored, '^%d+')
if not stored or (ARGV[3] ~= '' and ARGV[3] ~= version) then return false end

call('DEL', base .. 'none')  -- a first write that needs no memory, so that what frees some is never refused
call('HDEL', base .. 'k:' .. kind, key)
call('ZREM', base .. 'kz:' .. kind, key)
call('ZADD', base .. 'kd:' .. kind, version, key)
if call('ZCARD', base .. 'kd:' .. kind) > REMEMBERED then
  local forgotten = tonumber(call('ZPOPMIN', base .. 'kd:' .. kind)[2])
  local floor = tonumber(call('GET', base .. 'kf:' .. kind) or 0)
  call('SET', base .. 'kf:' .. kind, int(math.max(forgotten, floor)))
end
if ARGV[4] == '1' then set_pause(key, false) end
return version
