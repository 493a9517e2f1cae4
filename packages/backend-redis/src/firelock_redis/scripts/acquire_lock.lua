-- The lock is the owner's if it is free or is so already. Behind lib.lua and lock_lib.lua.
--
-- KEYS  1 base; derived: lock:<name> fences (see lock_lib.lua)
-- ARGV  1 clock offset, 2 name, 3 owner, 4 ttl in micros
-- Reply the token; nil where another holds the lock

local now, name, owner, ttl = clock(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local other, fence = holder(name, now)
if other and other ~= owner then return false end

call('DEL', base .. 'none')  -- a first write that needs no memory: who runs goes on when it is full
fence = fence or next_fence()
live(name, now, ttl, 'owner', owner, 'fence', fence)
return fence
