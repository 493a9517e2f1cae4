-- The sessions that may claim in this partition. Behind lib.lua; in any but the first.
--
-- KEYS  1 base; derived: living (see admit_session.lua)
-- ARGV  nothing
-- Reply the sessions

return call('SMEMBERS', base .. 'living')
