-- The lock lives on if it is still the owner's with this token. Behind lib.lua and lock_lib.lua.
--
-- KEYS  1 base; derived: lock:<name> (see lock_lib.lua)
-- ARGV  1 clock offset, 2 name, 3 owner, 4 token, 5 ttl in micros
-- Reply 1, 0 where it is not

local now = clock(ARGV[1])
local owner, fence = holder(ARGV[2], now)
if owner ~= ARGV[3] or fence ~= ARGV[4] then return 0 end

call('DEL', base .. 'none')  -- a first write that needs no memory: who runs goes on when it is full
live(ARGV[2], now, tonumber(ARGV[5]))
return 1
