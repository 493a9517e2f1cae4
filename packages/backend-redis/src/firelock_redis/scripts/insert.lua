-- The jobs are stored enqueued, all of them or none. Behind lib.lua: plain ones only, so that little runs for each.
--
-- KEYS  1 base; derived: jobs payloads all l:E:<queue> r:<queue> seq work queues; publishes on wake
-- ARGV  1 clock offset, then runs of at most a thousand jobs together that have these in common:
--         queue, place of the run's priority, number of jobs
--         and for each of them: id, payload, created_at
-- Reply 0 where one of the ids is there already and nothing was stored, else 1

local now, last = int(clock(ARGV[1])), #ARGV
local runs, count, at = {}, 0, 2
while at < last do
  runs[#runs + 1] = at
  count = count + ARGV[at + 2]
  at = at + 3 + 3 * ARGV[at + 2]
end

local place = call('INCRBY', base .. 'seq', count) - count
local records, payloads, all, queues, two = {}, {}, {}, {}, 0
for _, start in ipairs(runs) do
  local queue, lowest = ARGV[start], tonumber(ARGV[start + 1])
  local lists = queues[queue]
  if not lists then
    lists = { listed = {}, ready = {} }
    queues[queue] = lists
  end
  local listed, ready, size = lists.listed, lists.ready, #lists.ready
  local middle = ' ' .. queue .. ' \n0 0 ' .. now .. ' E\n\n'
  for arg = start + 3, start + 3 * ARGV[start + 2], 3 do
    local id, created = ARGV[arg], ARGV[arg + 2]
    place = place + 1
    local spot = format('%.0f', lowest + place)
    records[two + 1], records[two + 2] = id, 'E0 0 ' .. spot .. middle .. created .. '\t\t\t\t\t\t\t\t\t'
    payloads[two + 1], payloads[two + 2] = id, ARGV[arg + 1]
    all[two + 1], all[two + 2] = created, id
    listed[size + 1], listed[size + 2] = created, id
    ready[size + 1], ready[size + 2] = spot, id
    two, size = two + 2, size + 2
  end
end

-- What was added for nothing is taken back: it stands in no other place yet.
if call('ZADD', base .. 'all', 'NX', unpack(all)) < count then
  for number = 2, two, 2 do
    if call('HEXISTS', base .. 'jobs', all[number]) == 0 then call('ZREM', base .. 'all', all[number]) end
  end
  return 0
end
call('HSET', base .. 'jobs', unpack(records))
call('HSET', base .. 'payloads', unpack(payloads))
for queue, lists in pairs(queues) do
  call('ZADD', base .. 'l:E:' .. queue, unpack(lists.listed))
  if call('EXISTS', base .. 'r:' .. queue) == 0 then
    call('SADD', base .. 'work', queue)
    call('SADD', base .. 'queues', queue)
    call('PUBLISH', base .. 'wake', queue)
  end
  call('ZADD', base .. 'r:' .. queue, unpack(lists.ready))
end
return 1
