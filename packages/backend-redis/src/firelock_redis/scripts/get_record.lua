-- One record. Behind lib.lua.
--
-- KEYS  1 base; derived: k:<kind> (see put_record.lua)
-- ARGV  1 kind, 2 key
-- Reply "version value", nil where there is none

return call('HGET', base .. 'k:' .. ARGV[1], ARGV[2])
