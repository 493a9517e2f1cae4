-- Plain jobs are stored enqueued, all of them or none. On its own, so that little is made anew for each call and runs for
-- each job: insert.lua takes twice as long for a job of a batch, and the library alone is 2 of 35 µs of a call for one.
--
-- KEYS  1 base; derived: jobs payloads all l:E:<queue> r:<queue> seq work queues; publishes on wake
-- ARGV  1 what tests add to the clock; runs of at most a thousand jobs together that have these in common:
--         queue, place of the run's priority, number of jobs
--         and for each of them: id, payload, created_at
-- Reply 0 where one of the ids is there already and nothing was stored, else 1

local call, base, format, last = redis.call, KEYS[1] .. ':', string.format, #ARGV

local all, size, at = {}, 0, 2
while at < last do
  local upto = at + 3 * ARGV[at + 2]
  for arg = at + 3, upto, 3 do
    all[size + 1], all[size + 2] = ARGV[arg + 2], ARGV[arg]
    size = size + 2
  end
  at = upto + 3
end

-- What was added for nothing is taken back: it stands in no other place yet.
if call('ZADD', base .. 'all', 'NX', unpack(all)) < size / 2 then
  for number = 2, size, 2 do
    if call('HEXISTS', base .. 'jobs', all[number]) == 0 then call('ZREM', base .. 'all', all[number]) end
  end
  return 0
end

local time, place = call('TIME'), call('INCRBY', base .. 'seq', size / 2) - size / 2
local now = format('%.0f', time[1] * 1000000 + time[2] + ARGV[1])
at = 2
while at < last do
  local queue, lowest, upto = ARGV[at], ARGV[at + 1], at + 3 * ARGV[at + 2]
  local middle, line = ' ' .. queue .. ' \n0 0 ' .. now .. ' E\n\n', base .. 'r:' .. queue
  local listed = upto + 3 > last and at == 2 and all or {}  -- a run alone is the whole batch
  local records, payloads, ready, two = {}, {}, {}, 0
  for arg = at + 3, upto, 3 do
    local id, created = ARGV[arg], ARGV[arg + 2]
    place = place + 1
    local spot = format('%.0f', lowest + place)
    records[two + 1], records[two + 2] = id, 'E0 0 ' .. spot .. middle .. created .. '\t\t\t\t\t\t\t\t\t'
    payloads[two + 1], payloads[two + 2] = id, ARGV[arg + 1]
    if listed ~= all then listed[two + 1], listed[two + 2] = created, id end
    ready[two + 1], ready[two + 2] = spot, id
    two = two + 2
  end
  call('HSET', base .. 'jobs', unpack(records))
  call('HSET', base .. 'payloads', unpack(payloads))
  call('ZADD', base .. 'l:E:' .. queue, unpack(listed))
  if call('EXISTS', line) == 0 then
    call('SADD', base .. 'work', queue)
    call('SADD', base .. 'queues', queue)
    call('PUBLISH', base .. 'wake', queue)
  end
  call('ZADD', line, unpack(ready))
  at = upto + 3
end
return 1
