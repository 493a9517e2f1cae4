-- Plain jobs are stored enqueued, all of them or none. On its own, so that little is made anew for each call and runs for
-- each job: insert.lua takes twice as long for a job of a batch, and the library alone is 2 of 35 µs of a call for one.
-- Words stand as commands take them, so that no list is made of what is only passed on.
--
-- KEYS  1 base; derived: jobs payloads all l:E:<queue> r:<queue> seq work queues; publishes on wake
-- ARGV  1 what tests add to the clock; runs of at most a thousand jobs together that have these in common:
--         queue, place of the run's priority, number of jobs
--         then created_at and id of each of them, then id and payload of each
-- Reply 0 where one of the ids is there already and nothing was stored, else 1

local call, base, format, last = redis.call, KEYS[1] .. ':', string.format, #ARGV

local count, added, at = 0, 0, 2
while at < last do
  local number = tonumber(ARGV[at + 2])
  added = added + call('ZADD', base .. 'all', 'NX', unpack(ARGV, at + 3, at + 2 + 2 * number))
  count, at = count + number, at + 3 + 4 * number
end

-- What was added for nothing is taken back: it stands in no other place yet.
if added < count then
  at = 2
  while at < last do
    local behind = at + 3 + 2 * ARGV[at + 2]
    for arg = at + 4, behind - 1, 2 do
      if call('HEXISTS', base .. 'jobs', ARGV[arg]) == 0 then call('ZREM', base .. 'all', ARGV[arg]) end
    end
    at = behind + 2 * ARGV[at + 2]
  end
  return 0
end

local time, place = call('TIME'), call('INCRBY', base .. 'seq', count) - count
local now = format('%.0f', time[1] * 1000000 + time[2] + ARGV[1])
at = 2
while at < last do
  local queue, lowest, number = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local middle, line = ' ' .. queue .. ' \n0 0 ' .. now .. ' E\n\n', base .. 'r:' .. queue
  local first, behind = at + 3, at + 3 + 2 * number
  local records, ready, two = {}, {}, 0
  for arg = first, behind - 2, 2 do
    local id = ARGV[arg + 1]
    place = place + 1
    local spot = format('%.0f', lowest + place)
    records[two + 1], records[two + 2] = id, 'E0 0 ' .. spot .. middle .. ARGV[arg] .. '\t\t\t\t\t\t\t\t\t'
    ready[two + 1], ready[two + 2] = spot, id
    two = two + 2
  end
  at = behind + 2 * number
  call('HSET', base .. 'jobs', unpack(records))
  call('HSET', base .. 'payloads', unpack(ARGV, behind, at - 1))
  call('ZADD', base .. 'l:E:' .. queue, unpack(ARGV, first, behind - 1))
  if call('EXISTS', line) == 0 then
    call('SADD', base .. 'work', queue)
    call('SADD', base .. 'queues', queue)
    call('PUBLISH', base .. 'wake', queue)
  end
  call('ZADD', line, unpack(ready))
end
return 1
