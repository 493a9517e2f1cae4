-- Limit keys and unique keys: queries for people, and upkeep. Included after library.lua, jobs.lua, record.lua and
-- limits.lua.
--
-- KEYS  those of limits.lua and jobs.lua, of unique keys: unique uz; swept HASH limits, unique -> the key after which
--       upkeep continues

local verbs = {}

local SHOWN, OTHERS, COUNTED, LOOKS = 100, 10, 10000, 20000

-- Add this cost to the use of the key's rate, and block the key until `till`, unless that is empty. Return the time
-- from which the key allows a start of cost 1.
function verbs.spend(key, cost, till)
  despite_full_memory()
  local limited, now = limits(), clock()
  local usage = limited.usage_of(key)
  local settings, arrival_at = usage.settings, usage.next_arrival_at
  cost = tonumber(cost)
  if cost < 0 then  -- without a rate, the key uses no units
    arrival_at = settings.interval > 0 and arrival_at + cost * settings.interval or 0
  elseif cost > 0 and settings.interval > 0 then
    arrival_at = math.max(arrival_at, now) + cost * settings.interval
  end
  if till ~= '' then arrival_at = math.max(arrival_at, till + (settings.burst_units - 1) * settings.interval) end
  local before = usage.next_arrival_at
  usage.next_arrival_at = tonumber(int(math.max(0, arrival_at)))
  if usage.next_arrival_at ~= before then
    call('HSET', base .. 'arrivals', key, int(usage.next_arrival_at))
    call('ZADD', base .. 'lanes', 0, key .. '\n')
    if usage.next_arrival_at < before then wake('*') end
  end
  return int(math.max(0, limited.opens_at(usage, 1)))
end

-- ---- pages ---------------------------------------------------------------------------------------------------------

local looks = 0

-- Return whether a key comes before another one, compared by bytes as in a ZSET; `<` depends on the server's locale.
local function precedes(one, other)
  for place = 1, math.min(#one, #other) do
    local mine, its = string.byte(one, place), string.byte(other, place)
    if mine ~= its then return mine < its end
  end
  return #one < #other
end

-- Call `each` for the lanes that have the key, in order of name, with "queue, blank, keys", until it returns true.
local function walk(key, each)
  local first, last = '(' .. key .. '\n', '(' .. key .. '\v'
  repeat
    local entries = call('ZRANGEBYLEX', base .. 'lanes', first, last, 'LIMIT', 0, 100)
    for _, entry in ipairs(entries) do
      looks = looks + 1
      if each(sub(entry, #key + 2)) then return end
    end
    first = '(' .. (entries[#entries] or '')
  until #entries < 100
end

-- Return the number of jobs that wait for the key, up to COUNTED, and the first few other keys of the counted lanes.
local function waiting(key)
  local count, others, seen = 0, {}, { [key] = true }
  walk(key, function(lane)
    count = count + call('ZCARD', base .. 'lane:' .. lane)
    for other in string.gmatch(match(lane, ' (.*)$') or '', '[^\n]+') do
      if not seen[other] then
        seen[other] = true
        others[#others + 1] = other
      end
    end
    return count >= COUNTED
  end)
  table.sort(others, precedes)
  return math.min(count, COUNTED), { unpack(others, 1, math.min(#others, OTHERS)) }
end

-- Find up to `limit` lanes that have the key, with the number of their jobs, and the rank of a job if its id is given.
-- Return a LINE, in which the job's lane is '' and its rank is 0 if the job does not wait for the key; then each lane
-- and its length.
function verbs.line(key, limit, id)
  despite_full_memory()
  local reply, number = { 0, '', 0 }, 0  -- a LINE
  limit = tonumber(limit)
  walk(key, function(lane)
    local length = call('ZCARD', base .. 'lane:' .. lane)
    if length > 0 and number == limit then
      reply[LINE.is_cut] = 1
      return true
    elseif length > 0 then
      number = number + 1
      reply[#reply + 1], reply[#reply + 2] = lane, length
    end
  end)
  local text = id ~= '' and call('HGET', base .. 'jobs', id)
  local queue, admission = match(text or '', RECORD.captures(queue, admission))
  if admission and admission ~= '' then
    admission = admission_of(admission)
    local lane = queue .. ' ' .. admission.lane
    local rank = call('ZRANK', base .. 'lane:' .. lane, admission.has_details and id .. '\n' or id)
    for other in string.gmatch(admission.lane, '[^\n]+') do
      if other == key and rank then reply[LINE.own], reply[LINE.rank] = lane, rank end
    end
  end
  return reply
end

-- Return the ids in parts of lanes, as one list per part. ARGV from 3: a LANE_PART for each part.
function verbs.line_ids()
  despite_full_memory()
  local reply = {}
  for arg = 3, #ARGV, LANE_PART.width do
    local first = tonumber(ARGV[arg + LANE_PART.before])
    local last = first + ARGV[arg + LANE_PART.size] - 1
    local ids = call('ZRANGE', base .. 'lane:' .. ARGV[arg + LANE_PART.lane], first, last)
    for number, member in ipairs(ids) do ids[number] = match(member, '^[^\n]*') end
    reply[#reply + 1] = ids
  end
  return reply
end

-- Return the jobs that hold keys according to their records: by key, lists of ids with the times of their claims.
local function holders_now()
  local found = {}
  each_present(function(id, admission, text)
    local one = { id = id, at = tonumber(match(text, LAST.captures(claimed))) or 0 }
    for _, use in ipairs(admission.uses) do put(found, use[USE.key], one) end
  end)
  return found
end

-- Return the jobs that hold the key, oldest first, including strict holders between two attempts.
local function holders(key, present)
  local all, seen = {}, {}
  for _, one in ipairs(present[key] or {}) do
    all[#all + 1] = one
    seen[one.id] = true
  end
  local strict = {}
  for _, member in ipairs(call('SMEMBERS', base .. 'slots:' .. key)) do
    if sub(member, -1) == '!' and not seen[sub(member, 1, -2)] then strict[#strict + 1] = sub(member, 1, -2) end
  end
  for number, text in ipairs(records(strict)) do
    if text and not FINAL[sub(text, 1, 1)] then
      all[#all + 1] = { id = strict[number], at = tonumber(match(text, LAST.captures(claimed))) or 0 }
    end
  end
  table.sort(all, function(one, other)
    if one.at ~= other.at then return one.at < other.at end
    return one.id < other.id
  end)
  return all
end

-- Return the first key after this place in the partition's lanes, or nil.
local function following(place)
  local entry = call('ZRANGEBYLEX', base .. 'lanes', place, '+', 'LIMIT', 0, 1)[1]
  return entry and match(entry, '^[^\n]*')
end

-- List keys with this prefix after another key, in order of name: keys that a job holds or waits for, and keys whose
-- rate is used. Return 1 if there are more keys, else 0, and the last checked key; then for each key a KEY_REPLY,
-- followed by its first holders.
function verbs.list(prefix, after, limit)
  despite_full_memory()
  local reply, now, present = { 0, after }, clock(), holders_now()
  local held = {}
  for key in pairs(present) do
    if sub(key, 1, #prefix) == prefix and precedes(after, key) then held[#held + 1] = key end
  end
  table.sort(held, precedes)
  local place, next_held = precedes(after, prefix) and '[' .. prefix or '[' .. after .. '\v', 1
  if after == '' and prefix == '' then place = '-' end
  while #reply < 2 + limit do
    local key, other = following(place), held[next_held]
    if key and sub(key, 1, #prefix) ~= prefix then key = nil end
    if other and (not key or not precedes(key, other)) then
      if other == key then place = '[' .. key .. '\v' end
      key, next_held = other, next_held + 1
    elseif key then
      place = '[' .. key .. '\v'
    else
      break
    end
    if looks > LOOKS then
      reply[1] = 1
      break
    end
    looks = looks + 5
    local count, others = waiting(key)
    local all = holders(key, present)
    local arrival_at = call('HGET', base .. 'arrivals', key) or '0'
    if count > 0 or #all > 0 or tonumber(arrival_at) > now then
      local one = {
        [KEY_REPLY.key] = key, [KEY_REPLY.running] = #all, [KEY_REPLY.waiting] = count,
        [KEY_REPLY.next_arrival_at] = arrival_at, [KEY_REPLY.others] = others,
      }
      for number = 1, math.min(#all, SHOWN) do one[KEY_REPLY.width + number] = all[number].id end
      reply[#reply + 1] = one
    end
    reply[2] = key
  end
  return reply
end

-- Return unique keys with this prefix after another key, in order of name: each key and its stored value.
function verbs.unique(prefix, after, limit)
  local first, reply = precedes(after, prefix) and '[' .. prefix or '(' .. after, {}
  if after == '' and prefix == '' then first = '-' end
  local keys = call('ZRANGEBYLEX', base .. 'uz', first, '+', 'LIMIT', 0, limit)
  for _, key in ipairs(keys) do
    if sub(key, 1, #prefix) ~= prefix then break end
    reply[#reply + 1] = key
    reply[#reply + 1] = call('HGET', base .. 'unique', key)
  end
  return reply
end

-- ---- upkeep --------------------------------------------------------------------------------------------------------

-- Check up to `limit` limit keys, starting where the last check stopped. Delete each key whose rate is unused and that
-- no job holds or waits for. Check the same number of unique keys. Delete each key whose job is not stored and that
-- need not stay taken.
function verbs.forget(limit)
  despite_full_memory()
  local limited, now = limits(), clock()
  local after = call('HGET', base .. 'swept', 'limits') or ''
  limit = tonumber(limit)
  local key
  for _ = 1, limit do
    key = following(after == '' and '-' or '[' .. after .. '\v')
    if not key then break end
    after = key
    local entries = call('ZRANGEBYLEX', base .. 'lanes', '[' .. key .. '\n', '(' .. key .. '\v', 'LIMIT', 0, 2)
    if #entries == 1 and entries[1] == key .. '\n' then
      local usage = limited.usage_of(key)
      if usage.next_arrival_at <= now and #limited.drop_past_holders(usage) == 0 then
        call('ZREM', base .. 'lanes', key .. '\n')
        call('HDEL', base .. 'arrivals', key)
        call('HDEL', base .. 'short', key)
      end
    end
  end
  if key then call('HSET', base .. 'swept', 'limits', key) else call('HDEL', base .. 'swept', 'limits') end

  local last = call('HGET', base .. 'swept', 'unique')
  local keys = call('ZRANGEBYLEX', base .. 'uz', last and '(' .. last or '-', '+', 'LIMIT', 0, limit)
  for _, one in ipairs(keys) do
    local free_at, id = match(call('HGET', base .. 'unique', one) or '', UNIQUE_OWNER.captures(free_at, id))
    if not id or (tonumber(free_at) <= now and call('HEXISTS', base .. 'jobs', id) == 0) then
      call('HDEL', base .. 'unique', one)
      call('ZREM', base .. 'uz', one)
    end
  end
  if #keys == limit then
    call('HSET', base .. 'swept', 'unique', keys[#keys])
  else
    call('HDEL', base .. 'swept', 'unique')
  end
end

return run(verbs)
