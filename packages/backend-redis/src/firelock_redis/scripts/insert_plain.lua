-- Plain jobs, or plain members of one batch, are stored enqueued, all of them or none. On its own, so that little is made anew for each call and runs for
-- each job: insert.lua takes twice as long for a job of a batch, and the library alone is 2 of 35 µs of a call for one. For
-- the same reason what a command has taken is written over by what the next one takes: lists of their own are 2 µs of it.
--
-- KEYS  1 base; derived: jobs payloads all l:E:<queue> r:<queue> seq work queues, of a batch b:<id> bm:<id> (see batches.lua);
--       publishes on wake
-- ARGV  1 what tests add to the clock, 2 the batch or nothing; runs of at most a thousand jobs together that have these in common:
--         queue, place of the run's priority, number of jobs, and for each of them: id, payload
-- Reply 0 where one of the ids is there already or the batch does not just take its members, and nothing was stored, else 1

local call, base, format, last = redis.call, KEYS[1] .. ':', string.format, #ARGV

local batch, flag = ARGV[2], ''
if batch ~= '' then
  local stored, marks = call('HGET', base .. 'jobs', batch), call('HMGET', base .. 'b:' .. batch, 'shut', 'cancelled', 'stopping')
  if not stored or string.sub(stored, 1, 1) ~= 'W' or not marks[1] or marks[1] .. marks[2] .. marks[3] ~= '' then return 0 end
  flag = 'm'
end

local places, two, at = {}, 0, 3  -- created_at, later place in the queue, and id of each job
while at < last do
  local behind = at + 1 + 2 * ARGV[at + 2]
  for arg = at + 3, behind, 2 do
    places[two + 1], places[two + 2] = string.match(ARGV[arg + 1], '^[^\t]*\t[^\t]*\t(%d+)'), ARGV[arg]
    two = two + 2
  end
  at = behind + 2
end

-- What was added for nothing is taken back: it stands in no other place yet.
local count = two / 2
if call('ZADD', base .. 'all', 'NX', unpack(places)) < count then
  for id = 2, two, 2 do
    if call('HEXISTS', base .. 'jobs', places[id]) == 0 then call('ZREM', base .. 'all', places[id]) end
  end
  return 0
end

if batch ~= '' then
  call('ZADD', base .. 'bm:' .. batch, unpack(places))
  call('HINCRBY', base .. 'b:' .. batch, 'total', count)
  call('HINCRBY', base .. 'b:' .. batch, 'active', count)
end

local time, place = call('TIME'), call('INCRBY', base .. 'seq', count) - count
local now, state = format('%.0f', time[1] * 1000000 + time[2] + ARGV[1]), 'E' .. flag .. '0 0 '
two, at = 0, 3
while at < last do
  local queue, lowest, behind = ARGV[at], ARGV[at + 1], at + 2 + 2 * ARGV[at + 2]
  local middle, line, first = ' ' .. queue .. ' \n0 0 ' .. now .. ' E\n\n', base .. 'r:' .. queue, two + 1
  local upto = two + behind - at - 2
  call('HSET', base .. 'payloads', unpack(ARGV, at + 3, behind))
  call('ZADD', base .. 'l:E:' .. queue, unpack(places, first, upto))
  for payload = at + 4, behind, 2 do
    place = place + 1
    local spot = format('%.0f', lowest + place)
    ARGV[payload] = state .. spot .. middle .. places[two + 1] .. '\t\t\t\t\t\t\t\t\t'
    places[two + 1] = spot
    two = two + 2
  end
  call('HSET', base .. 'jobs', unpack(ARGV, at + 3, behind))
  if call('EXISTS', line) == 0 then
    call('SADD', base .. 'work', queue)
    call('SADD', base .. 'queues', queue)
    call('PUBLISH', base .. 'wake', queue)
  end
  call('ZADD', line, unpack(places, first, upto))
  at = behind + 1
end
return 1
