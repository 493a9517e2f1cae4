-- The lock is free if it was still the owner's with this token. Behind lib.lua and lock_lib.lua.
--
-- KEYS  1 base; derived: lock:<name> (see lock_lib.lua)
-- ARGV  1 clock offset, 2 name, 3 owner, 4 token
-- Reply 1, 0 where it was not

local owner, fence = holder(ARGV[2], clock(ARGV[1]))
if owner ~= ARGV[3] or fence ~= ARGV[4] then return 0 end

return call('DEL', lock_key(ARGV[2]))
