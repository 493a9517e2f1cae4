-- A dead session holds nothing any more, in no partition. Behind lib.lua; in the first partition.
--
-- KEYS  1 base; derived: s:<session> ending (see end_session.lua)
-- ARGV  1 session
-- Reply 1

call('ZREM', base .. 'ending', ARGV[1])
call('HDEL', base .. 's:' .. ARGV[1], 'running', 'reason')
return 1
