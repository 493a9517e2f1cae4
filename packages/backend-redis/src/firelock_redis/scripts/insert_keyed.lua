-- Jobs with limits, or that are to start before some instant, and ask for nothing else beside what the payload holds, are
-- stored enqueued, all of them or none. On its own, as insert_plain.lua is: see there, and jobs.lua for lanes.
--
-- KEYS  1 base; derived: jobs payloads all l:E:<queue> r:<queue> seq work queues, lane:<queue> <keys> ring:<queue> turn lanes
--       laned; publishes on wake
-- ARGV  1 what tests add to the clock; runs of at most 500 jobs together that have these in common: queue, place of the run's
--       priority, number of jobs, and for each of them: id, payload, what it asks, lane or nothing, a line end where it is odd
-- Reply 0 where one of the ids is there already and nothing was stored, else 1

local call, base, format, last = redis.call, KEYS[1] .. ':', string.format, #ARGV

local places, two, at = {}, 0, 2  -- created_at and id of each job
while at < last do
  local behind = at + 3 + 5 * ARGV[at + 2]
  for arg = at + 3, behind - 1, 5 do
    places[two + 1], places[two + 2] = string.match(ARGV[arg + 1], '^[^\t]*\t[^\t]*\t(%d+)'), ARGV[arg]
    two = two + 2
  end
  at = behind
end

-- What was added for nothing is taken back: it stands in no other place yet.
local count = two / 2
if call('ZADD', base .. 'all', 'NX', unpack(places)) < count then
  for id = 2, two, 2 do
    if call('HEXISTS', base .. 'jobs', places[id]) == 0 then call('ZREM', base .. 'all', places[id]) end
  end
  return 0
end

local time, place = call('TIME'), call('INCRBY', base .. 'seq', count) - count
local now = format('%.0f', time[1] * 1000000 + time[2] + ARGV[1])
local jobs, payloads = {}, {}
local queues = {}  -- by queue: created_at and id of each job, and by lane place and member
two, at = 0, 2
while at < last do
  local queue, lowest, behind = ARGV[at], ARGV[at + 1], at + 3 + 5 * ARGV[at + 2]
  local middle, found = ' ' .. queue .. ' \n0 0 ' .. now .. ' E ', queues[queue]
  if not found then
    found = { listed = {}, lanes = {} }
    queues[queue] = found
  end
  local listed, lanes = found.listed, found.lanes
  for arg = at + 3, behind - 1, 5 do
    place = place + 1
    local id, created, size = ARGV[arg], places[two + 1], #listed
    local spot, lane = format('%.0f', lowest + place), lanes[ARGV[arg + 3]]
    jobs[two + 1], jobs[two + 2] = id, 'E0 0 ' .. spot .. middle .. ARGV[arg + 2] .. '\n\n' .. created .. '\t\t\t\t\t\t\t\t\t'
    payloads[two + 1], payloads[two + 2] = id, ARGV[arg + 1]
    listed[size + 1], listed[size + 2] = created, id
    if not lane then
      lane = {}
      lanes[ARGV[arg + 3]] = lane
    end
    size = #lane
    lane[size + 1], lane[size + 2] = spot, id .. ARGV[arg + 4]
    two = two + 2
  end
  at = behind
end
call('HSET', base .. 'payloads', unpack(payloads))
call('HSET', base .. 'jobs', unpack(jobs))
for queue, found in pairs(queues) do
  call('ZADD', base .. 'l:E:' .. queue, unpack(found.listed))
  call('SADD', base .. 'queues', queue)
  local turn, turns, entries, is_first = call('GET', base .. 'turn') or 0, {}, {}, false
  for lane, members in pairs(found.lanes) do
    if lane == '' then
      local line = base .. 'r:' .. queue
      if call('EXISTS', line) == 0 then
        call('SADD', base .. 'work', queue)
        is_first = true
      end
      call('ZADD', line, unpack(members))
    else
      call('ZADD', base .. 'lane:' .. queue .. ' ' .. lane, unpack(members))
      local size = #turns
      turns[size + 1], turns[size + 2] = turn, lane
    end
  end
  if #turns > 0 and call('ZADD', base .. 'ring:' .. queue, 'NX', unpack(turns)) > 0 then
    is_first = true
    call('SADD', base .. 'laned', queue)
    for number = 2, #turns, 2 do
      for key in string.gmatch(turns[number], '[^\n]+') do
        local size = #entries
        entries[size + 1], entries[size + 2] = 0, key .. '\n'
        entries[size + 3], entries[size + 4] = 0, key .. '\n' .. queue .. ' ' .. turns[number]
      end
      if #entries > 1000 or number == #turns then
        call('ZADD', base .. 'lanes', unpack(entries))
        entries = {}
      end
    end
  end
  if is_first then call('PUBLISH', base .. 'wake', queue) end
end
return 1
