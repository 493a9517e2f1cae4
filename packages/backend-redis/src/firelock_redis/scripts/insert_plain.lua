-- Store enqueued plain jobs, or enqueued plain members of one batch, perhaps together with that batch: all of them or
-- none. This is a separate script so that each call creates few functions and runs little code per job: insert.lua
-- takes twice as long for a job of a batch, and library.lua alone takes 2 of the 35 µs of a call for one job. For the
-- same reason, the arguments of one command are overwritten with those of the next one; separate lists would take 2
-- µs.
--
-- KEYS  1 base; derived: jobs payloads all l:E:<queue> r:<queue> seq work queues, of a batch b:<id> bm:<id> (see
--       batches.lua), of a new batch l:W:<queue> due t:<tag>; publishes on wake
-- ARGV  1 microseconds that tests add to the clock, 2 the batch or empty, from 3 empty, or a NEW_BATCH and its tags if
--       it is new; then series of at most a thousand jobs together, each a RUN and a PLAIN_JOB for each job; a new
--       batch is the first of these jobs, regardless of its queue. The arguments of the first command are
--       overwritten with those of the second one: id and record in place of id and payload
-- Reply 1; or 0 if nothing was stored because an id is already stored, or the batch is not stored, not open, or
--       stopping

local call, base, format, last = redis.call, KEYS[1] .. ':', string.format, #ARGV

local batch, flag, from, new = ARGV[2], '', 4, 0  -- new: the number of values in a list that belong to a new batch
if ARGV[3] ~= '' then
  flag, from, new = 'm', 3 + NEW_BATCH.width + ARGV[3 + NEW_BATCH.tags], PLAIN_JOB.width
elseif batch ~= '' then
  local stored, marks = call('HGET', base .. 'jobs', batch), call('HMGET', base .. 'b:' .. batch, 'unopened', 'cancelled', 'stopping')
  if not stored or string.sub(stored, 1, 1) ~= 'W' or not marks[1] or marks[1] .. marks[2] .. marks[3] ~= '' then return 0 end
  flag = 'm'
end

local places, two, at = {}, 0, from  -- created_at, later the place in the queue, and id of each job
while at < last do
  local next_at = at + RUN.width + PLAIN_JOB.width * ARGV[at + RUN.size]
  for arg = at + RUN.width, next_at - 1, PLAIN_JOB.width do
    places[two + 1] = string.match(ARGV[arg + PLAIN_JOB.payload], PAYLOAD.captures(created))
    places[two + 2] = ARGV[arg + PLAIN_JOB.id]
    two = two + 2
  end
  at = next_at
end

-- Remove the ids that were added although nothing will be stored; no other list contains them yet.
local count = two / 2
if call('ZADD', base .. 'all', 'NX', unpack(places)) < count then
  for id = 2, two, 2 do
    if call('HEXISTS', base .. 'jobs', places[id]) == 0 then call('ZREM', base .. 'all', places[id]) end
  end
  return 0
end

local record  -- the record of a new batch; the second part is its place
if new > 0 then
  local queue, due, reason = ARGV[3 + NEW_BATCH.queue], ARGV[3 + NEW_BATCH.due], ARGV[3 + NEW_BATCH.reason]
  local created, members, backwards = places[1], count - 1, {}
  -- Add the last member first, because a small ZSET is a list in which Redis searches for each position from the head.
  for id = two, 4, -2 do backwards[two - id + 1], backwards[two - id + 2] = places[id - 1], places[id] end
  call('ZADD', base .. 'bm:' .. batch, unpack(backwards))
  call('HSET', base .. 'b:' .. batch, 'total', members, 'active', members, 'waiting', 0, 'succeeded', 0, 'failed', 0,
    'deleted', 0, 'batches', 0, 'unopened', '', 'cancelled', '', 'stopping', '',
    'fast', ARGV[3 + NEW_BATCH.fast], 'outer', '', 'keeps', ARGV[3 + NEW_BATCH.keeps], 'walk', '')
  call('ZADD', base .. 'l:W:' .. queue, created, batch)
  if queue ~= ARGV[from + RUN.queue] then call('SADD', base .. 'queues', queue) end
  for tag = 3 + NEW_BATCH.width, from - 1 do call('ZADD', base .. 't:' .. ARGV[tag], created, batch) end
  if due ~= '' then
    local first = call('ZRANGE', base .. 'due', 0, 0, 'WITHSCORES')[2]
    call('ZADD', base .. 'due', due, batch)
    if not first or tonumber(due) < tonumber(first) then call('PUBLISH', base .. 'wake', '*') end
  end
  record = { 'Wb0 0 ', 0, ' ' .. queue .. ' \n0 0 0 -\n\n["awaiting",' .. created .. ',' .. (reason == '' and 'null' or reason)
    .. ']\n' .. created .. LAST.between(changed, due) .. due .. LAST.between(due, reason) .. reason .. LAST.between(reason, absent) }
elseif batch ~= '' then
  call('ZADD', base .. 'bm:' .. batch, unpack(places))
  call('HINCRBY', base .. 'b:' .. batch, 'total', count)
  call('HINCRBY', base .. 'b:' .. batch, 'active', count)
end

local time, place = call('TIME'), call('INCRBY', base .. 'seq', count) - count
local now, state = format('%.0f', time[1] * 1000000 + time[2] + ARGV[1]), 'E' .. flag .. '0 0 '
local after_changed = LAST.between(changed, absent)
two, at = 0, from
while at < last do
  local queue, lowest, jobs = ARGV[at + RUN.queue], ARGV[at + RUN.lowest], at + RUN.width
  local next_at = jobs + PLAIN_JOB.width * ARGV[at + RUN.size]
  local middle, line, first = ' ' .. queue .. ' \n0 0 ' .. now .. ' E\n\n', base .. 'r:' .. queue, two + 1 + new
  local upto = two + next_at - jobs
  call('HSET', base .. 'payloads', unpack(ARGV, jobs, next_at - 1))
  call('ZADD', base .. 'l:E:' .. queue, unpack(places, first, upto))
  if new > 0 then
    place = place + 1
    record[2] = format('%.0f', ARGV[3 + NEW_BATCH.lowest] + place)
    ARGV[jobs + PLAIN_JOB.payload] = table.concat(record)
    two = two + new
  end
  for payload = jobs + PLAIN_JOB.payload + new, next_at - 1, PLAIN_JOB.width do
    place = place + 1
    local spot = format('%.0f', lowest + place)
    ARGV[payload] = state .. spot .. middle .. places[two + 1] .. after_changed
    places[two + 1] = spot
    two = two + 2
  end
  call('HSET', base .. 'jobs', unpack(ARGV, jobs, next_at - 1))
  if call('EXISTS', line) == 0 then
    call('SADD', base .. 'work', queue)
    call('SADD', base .. 'queues', queue)
    call('PUBLISH', base .. 'wake', queue)
  end
  call('ZADD', line, unpack(places, first, upto))
  at, new = next_at, 0
end
return 1
