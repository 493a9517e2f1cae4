-- Sessions that have to be ended, and those whose end was begun and not finished. Behind lib.lua; in the first partition.
--
-- KEYS  1 base; derived: sx ending (see begin_session.lua and end_session.lua)
-- ARGV  1 clock offset, 2 limit, 3 how long ago an end has to have begun, in micros, for its maker to be given up
-- Reply living sessions that have expired, longest expired first; dead ones that are still ending

local now = clock(ARGV[1])
return {
  call('ZRANGEBYSCORE', base .. 'sx', '-inf', int(now), 'LIMIT', 0, ARGV[2]),
  call('ZRANGEBYSCORE', base .. 'ending', '-inf', int(now - ARGV[3]), 'LIMIT', 0, ARGV[2]),
}
