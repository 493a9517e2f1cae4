-- Store enqueued jobs that have limits, plain unique keys or a latest start, but no other features: all of them or
-- none. This is a separate script for the reason given in insert_plain.lua. jobs.lua describes lanes, and unique.lua
-- describes unique keys.
--
-- KEYS  1 base; derived: jobs payloads all l:E:<queue> r:<queue> seq work queues, lane:<queue> <keys> ring:<queue>
--       turn lanes laned, unique uz; publishes on wake
-- ARGV  1 microseconds that tests add to the clock; series of at most 500 jobs together, each a RUN and a KEYED_JOB for
--       each job
-- Reply 0 if nothing was stored because one of the ids is already stored or insert.lua must decide; an empty list if
--       all jobs are new; otherwise, for each job, an empty string or the id of the job that has its unique key

local call, base, format, match, last = redis.call, KEYS[1] .. ':', string.format, string.match, #ARGV
local time = call('TIME')
local instant = time[1] * 1000000 + time[2] + ARGV[1]
local now = format('%.0f', instant)

-- Return whether the job to which a stored key refers still has the key; nil if insert.lua must decide.
local function is_taken(mark, free_at, text)
  if not text then return instant < tonumber(free_at) end
  local state, attempt, session, crashes, enqueued, admission =
    match(text, RECORD.captures(state, attempt, session, crashes, enqueued, admission))
  if not state or state == 'F' or (state == 'D' and session ~= '') then return nil end
  if instant < tonumber(free_at) then return true end
  if state == 'S' or state == 'D' then return false end
  local is_read, decoded = pcall(cjson.decode, admission)
  if not is_read or type(decoded) ~= 'table' or decoded[ADMISSION.before] ~= cjson.null or decoded[ADMISSION.within] ~= cjson.null then return nil end
  local use = decoded[ADMISSION.unique]
  if type(use) ~= 'table' then return nil end
  local kept_until = use[UNIQUE.kept_until]
  if kept_until == 'ended' or kept_until == 'succeeded' then return true end
  local is_unstarted = attempt + crashes == tonumber(mark)
  if kept_until == 'started' then return state ~= 'P' and is_unstarted end
  return state == 'C' and is_unstarted
end

local places, two, at = {}, 0, 2  -- created_at and id of each job
local answers, taken, is_asked = {}, {}, false  -- jobs that have keys, by place in ARGV; jobs that take keys, by key
local keys, members = {}, {}
local CREATED, MARKED = PAYLOAD.captures(created), UNIQUE_OWNER.captures(mark, free_at, id)
while at < last do
  local next_at = at + RUN.width + KEYED_JOB.width * ARGV[at + RUN.size]
  for arg = at + RUN.width, next_at - 1, KEYED_JOB.width do
    local id, holder = ARGV[arg + KEYED_JOB.id], nil
    local at_least, key = match(ARGV[arg + KEYED_JOB.details], '^\n? (%d+) (.*)$')
    if key then
      holder = taken[key]
      local mark, free_at, owner = match(not holder and call('HGET', base .. 'unique', key) or '', MARKED)
      if owner then
        local is = owner ~= id and is_taken(mark, free_at, call('HGET', base .. 'jobs', owner))
        if is == nil or owner == id then return 0 end
        if is then holder = owner end
      end
      if holder then
        if holder == id or call('HEXISTS', base .. 'jobs', id) == 1 then return 0 end
        answers[arg], is_asked = holder, true
      else
        taken[key] = id
        local size = #keys
        keys[size + 1], keys[size + 2] = key, '0 ' .. (at_least == '0' and '0' or format('%.0f', instant + at_least)) .. ' ' .. id
        members[size + 1], members[size + 2] = 0, key
      end
    end
    if not holder then
      places[two + 1], places[two + 2] = match(ARGV[arg + KEYED_JOB.payload], CREATED), id
      two = two + 2
    end
  end
  at = next_at
end

-- Remove the ids that were added although nothing will be stored; no other list contains them yet.
local count = two / 2
if count > 0 and call('ZADD', base .. 'all', 'NX', unpack(places)) < count then
  for id = 2, two, 2 do
    if call('HEXISTS', base .. 'jobs', places[id]) == 0 then call('ZREM', base .. 'all', places[id]) end
  end
  return 0
end
if keys[1] then
  call('HSET', base .. 'unique', unpack(keys))
  call('ZADD', base .. 'uz', unpack(members))
end

-- Write something even if no job is new, because a WAIT after a script without writes would not confirm anything.
local place = call('INCRBY', base .. 'seq', count > 0 and count or 1) - count
local jobs, payloads, after_changed = {}, {}, LAST.between(changed, absent)
local queues = {}  -- created_at and id of each job by queue; the place and member of each job by queue and lane
two, at = 0, 2
while at < last do
  local queue, lowest = ARGV[at + RUN.queue], ARGV[at + RUN.lowest]
  local next_at = at + RUN.width + KEYED_JOB.width * ARGV[at + RUN.size]
  local middle, found = ' ' .. queue .. ' \n0 0 ' .. now .. ' E ', queues[queue]
  for arg = at + RUN.width, next_at - 1, KEYED_JOB.width do
    if not answers[arg] then
      if not found then
        found = { listed = {}, lanes = {} }
        queues[queue] = found
      end
      place = place + 1
      local id, created, listed = ARGV[arg + KEYED_JOB.id], places[two + 1], found.listed
      local spot, lane, size = format('%.0f', lowest + place), found.lanes[ARGV[arg + KEYED_JOB.lane]], #listed
      local admission = ARGV[arg + KEYED_JOB.admission]
      jobs[two + 1], jobs[two + 2] = id, 'E0 0 ' .. spot .. middle .. admission .. '\n\n' .. created .. after_changed
      payloads[two + 1], payloads[two + 2] = id, ARGV[arg + KEYED_JOB.payload]
      listed[size + 1], listed[size + 2] = created, id
      if not lane then
        lane = {}
        found.lanes[ARGV[arg + KEYED_JOB.lane]] = lane
      end
      size = #lane
      lane[size + 1], lane[size + 2] = spot, string.byte(ARGV[arg + KEYED_JOB.details]) == 10 and id .. '\n' or id
      two = two + 2
    end
  end
  at = next_at
end
if count > 0 then
  call('HSET', base .. 'payloads', unpack(payloads))
  call('HSET', base .. 'jobs', unpack(jobs))
end
for queue, found in pairs(queues) do
  call('ZADD', base .. 'l:E:' .. queue, unpack(found.listed))
  call('SADD', base .. 'queues', queue)
  local turn, turns, entries, is_first = call('GET', base .. 'turn') or 0, {}, {}, false
  for lane, standing in pairs(found.lanes) do
    if lane == '' then
      local line = base .. 'r:' .. queue
      if call('EXISTS', line) == 0 then
        call('SADD', base .. 'work', queue)
        is_first = true
      end
      call('ZADD', line, unpack(standing))
    else
      call('ZADD', base .. 'lane:' .. queue .. ' ' .. lane, unpack(standing))
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
if not is_asked then return {} end
local reply = {}
at = 2
while at < last do
  local next_at = at + RUN.width + KEYED_JOB.width * ARGV[at + RUN.size]
  for arg = at + RUN.width, next_at - 1, KEYED_JOB.width do reply[#reply + 1] = answers[arg] or '' end
  at = next_at
end
return reply
