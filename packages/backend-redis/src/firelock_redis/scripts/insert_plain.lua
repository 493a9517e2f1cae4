-- Plain jobs, or plain members of one batch, perhaps with that batch, are stored enqueued, all of them or none. On its own, so that little is made anew for each call and runs for
-- each job: insert.lua takes twice as long for a job of a batch, and the library alone is 2 of 35 µs of a call for one. For
-- the same reason what a command has taken is written over by what the next one takes: lists of their own are 2 µs of it.
--
-- KEYS  1 base; derived: jobs payloads all l:E:<queue> r:<queue> seq work queues, of a batch b:<id> bm:<id> (see batches.lua), of
--       a new one l:W:<queue> due t:<tag>; publishes on wake
-- ARGV  1 what tests add to the clock, 2 the batch or nothing, 3 the queue of the batch where it is new, else nothing; of a new one
--         place of its priority, until when it is held or nothing, reason as JSON or nothing, fast and keeps (see batches.lua),
--         number of tags, tags; runs of at most a thousand jobs together that have these in common: queue, place of the run's
--         priority, number of jobs, and for each of them: id, payload; a new batch is the first of them, whatever its queue
-- Reply 0 where one of the ids is there already or the batch does not just take its members, and nothing was stored, else 1

local call, base, format, last = redis.call, KEYS[1] .. ':', string.format, #ARGV

local batch, flag, from, new = ARGV[2], '', 4, 0  -- new: places in a list that a new batch takes
if ARGV[3] ~= '' then
  flag, from, new = 'm', 10 + ARGV[9], 2
elseif batch ~= '' then
  local stored, marks = call('HGET', base .. 'jobs', batch), call('HMGET', base .. 'b:' .. batch, 'shut', 'cancelled', 'stopping')
  if not stored or string.sub(stored, 1, 1) ~= 'W' or not marks[1] or marks[1] .. marks[2] .. marks[3] ~= '' then return 0 end
  flag = 'm'
end

local places, two, at = {}, 0, from  -- created_at, later place in the queue, and id of each job
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

local record  -- of a new batch, its second part the place
if new > 0 then
  local queue, _, due, reason, fast, keeps, tags = unpack(ARGV, 3, 9)
  local created, members, backwards = places[1], count - 1, {}
  -- The last one first: what is small yet is a list, in which Redis goes from its head to where each of them stands.
  for id = two, 4, -2 do backwards[two - id + 1], backwards[two - id + 2] = places[id - 1], places[id] end
  call('ZADD', base .. 'bm:' .. batch, unpack(backwards))
  call('HSET', base .. 'b:' .. batch, 'total', members, 'active', members, 'waiting', 0, 'succeeded', 0, 'failed', 0, 'deleted', 0,
    'batches', 0, 'shut', '', 'cancelled', '', 'stopping', '', 'fast', fast, 'outer', '', 'keeps', keeps, 'walk', '')
  call('ZADD', base .. 'l:W:' .. queue, created, batch)
  if queue ~= ARGV[from] then call('SADD', base .. 'queues', queue) end
  for tag = 10, from - 1 do call('ZADD', base .. 't:' .. ARGV[tag], created, batch) end
  if due ~= '' then
    local first = call('ZRANGE', base .. 'due', 0, 0, 'WITHSCORES')[2]
    call('ZADD', base .. 'due', due, batch)
    if not first or tonumber(due) < tonumber(first) then call('PUBLISH', base .. 'wake', '*') end
  end
  record = { 'Wb0 0 ', 0, ' ' .. queue .. ' \n0 0 0 -\n\n["awaiting",' .. created .. ',' .. (reason == '' and 'null' or reason)
    .. ']\n' .. created .. '\t\t\t\t\t' .. due .. '\t\t' .. reason .. '\t\t' }
elseif batch ~= '' then
  call('ZADD', base .. 'bm:' .. batch, unpack(places))
  call('HINCRBY', base .. 'b:' .. batch, 'total', count)
  call('HINCRBY', base .. 'b:' .. batch, 'active', count)
end

local time, place = call('TIME'), call('INCRBY', base .. 'seq', count) - count
local now, state = format('%.0f', time[1] * 1000000 + time[2] + ARGV[1]), 'E' .. flag .. '0 0 '
two, at = 0, from
while at < last do
  local queue, lowest, behind = ARGV[at], ARGV[at + 1], at + 2 + 2 * ARGV[at + 2]
  local middle, line, first = ' ' .. queue .. ' \n0 0 ' .. now .. ' E\n\n', base .. 'r:' .. queue, two + 1 + new
  local upto = two + behind - at - 2
  call('HSET', base .. 'payloads', unpack(ARGV, at + 3, behind))
  call('ZADD', base .. 'l:E:' .. queue, unpack(places, first, upto))
  if new > 0 then
    place = place + 1
    record[2] = format('%.0f', ARGV[4] + place)
    ARGV[at + 4] = table.concat(record)
    two = two + new
  end
  for payload = at + 4 + new, behind, 2 do
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
  at, new = behind + 1, 0
end
return 1
