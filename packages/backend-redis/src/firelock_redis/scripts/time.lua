-- The storage's clock. Behind lib.lua.
--
-- KEYS  1 base
-- ARGV  1 clock offset
-- Reply micros

return int(clock(ARGV[1]))
