-- Sessions that died more than a day ago are gone. Behind lib.lua; in the first partition.
--
-- KEYS  1 base; derived: s:<session> ss sd (see begin_session.lua), ending (see end_session.lua)
-- ARGV  1 clock offset, 2 limit, then the sessions that live in other partitions
-- Reply those among them that are dead or unknown here, and that nobody is about to end

local DAY = 86400 * 1000000

call('DEL', base .. 'none')  -- a first write that needs no memory: here it is freed

local before = int(clock(ARGV[1]) - DAY)
for _, session in ipairs(call('ZRANGEBYSCORE', base .. 'sd', '-inf', '(' .. before, 'LIMIT', 0, ARGV[2])) do
  if not call('ZSCORE', base .. 'ending', session) then
    call('UNLINK', base .. 's:' .. session)
    call('ZREM', base .. 'sd', session)
    call('ZREM', base .. 'ss', session)
  end
end

local strays = {}
for arg = 3, #ARGV do
  local session = ARGV[arg]
  if call('HGET', base .. 's:' .. session, 'alive') ~= '1' and not call('ZSCORE', base .. 'ending', session) then
    strays[#strays + 1] = session
  end
end
return strays
