-- Claiming, as a function. Behind lib.lua, in front of exchange.lua.

-- How many to take from each of the queues, in order; all together at most the limit.
local function shares(names, limit, in_turn)
  local sizes, taking, left = {}, {}, limit
  for number, queue in ipairs(names) do
    local size = call('ZCARD', base .. 'r:' .. queue)
    if size == 0 then
      call('SREM', base .. 'work', queue)
    elseif call('SISMEMBER', base .. 'paused', queue) == 1 then
      size = 0
    end
    sizes[number], taking[number] = size, 0
  end
  if not in_turn then
    for number, size in ipairs(sizes) do
      taking[number] = math.min(size, left)
      left = left - taking[number]
    end
    return taking
  end
  while left > 0 do
    local open = {}
    for number, size in ipairs(sizes) do
      if size > taking[number] then open[#open + 1] = number end
    end
    if #open == 0 then break end
    local each = math.max(1, math.floor(left / #open))
    for _, number in ipairs(open) do
      local more = math.min(each, sizes[number] - taking[number], left)
      taking[number] = taking[number] + more
      left = left - more
    end
  end
  return taking
end

-- Every queue with work, beginning behind the one that was served last.
local function queues_in_turn()
  local names = call('SMEMBERS', base .. 'work')
  if #names < 2 then return names end
  table.sort(names)
  local served = call('GET', base .. 'served') or ''
  local behind, before = {}, {}
  for _, queue in ipairs(names) do
    if queue > served then behind[#behind + 1] = queue else before[#before + 1] = queue end
  end
  for _, queue in ipairs(before) do behind[#behind + 1] = queue end
  return behind
end

local function popped(names, taking, in_turn)
  local lines, ids = {}, {}
  local most, last = 0, nil
  for number, queue in ipairs(names) do
    local line = {}
    if taking[number] > 0 then
      local key = base .. 'r:' .. queue
      local members = call('ZPOPMIN', key, taking[number])
      for pair = 1, #members, 2 do line[#line + 1] = members[pair] end
      if call('EXISTS', key) == 0 then call('SREM', base .. 'work', queue) end
      many('ZREM', base .. 'l:E:' .. queue, line)
      call('HINCRBY', base .. 'running', queue, #line)
    end
    lines[number] = line
    most = math.max(most, #line)
  end
  if #names == 1 then return lines[1], lines end
  if not in_turn then
    for _, line in ipairs(lines) do
      for _, id in ipairs(line) do ids[#ids + 1] = id end
    end
    return ids, lines
  end
  for round = 1, most do
    for number, line in ipairs(lines) do
      if line[round] then
        ids[#ids + 1] = line[round]
        last = names[number]
      end
    end
  end
  if last and #names > 1 then call('SET', base .. 'served', last) end
  return ids, lines
end

-- Jobs whose record or payload is gone or garbage are in nobody's way any more: broken SET holds them, for `doctor`.
local function set_aside(ids, names, lines)
  local is_broken = {}
  for _, id in ipairs(ids) do is_broken[id] = true end
  for number, line in ipairs(lines) do
    for _, id in ipairs(line) do
      if is_broken[id] and call('HINCRBY', base .. 'running', names[number], -1) == 0 then
        call('HDEL', base .. 'running', names[number])
      end
    end
  end
  many('SADD', base .. 'broken', ids)
end

-- The record of a claimed job without its last line; nil where the stored one is garbage.
local function claimed(text, session)
  if sub(text, 1, 5) == 'E0 0 ' then  -- never claimed, and most often without a history: no pattern is needed
    local first = find(text, '\n', 6, true)
    local second = find(text, '\n', first + 1, true)
    if sub(text, second - 1, second + 1) == 'E\n\n' and not find(text, '\n', second + 2, true) then
      return 'P1 1 ' .. sub(text, 6, first - 1) .. session .. sub(text, first, second + 1)
    end
  end
  local flag, attempt, fence, rest, middle = match(text, '^E(%+?)(%d+) (%d+) ([^\n]*)\n(.*\n)')
  return flag and 'P' .. flag .. attempt + 1 .. ' ' .. fence + 1 .. ' ' .. rest .. session .. '\n' .. middle
end

-- Take up to `limit` jobs for the session; lay id, record without its last line and payload of each into `reply`.
local function claim(reply, names, limit, session, server, now)
  local in_turn = not names
  names = names or queues_in_turn()
  local ids, lines = popped(names, shares(names, limit, in_turn), in_turn)
  local count = #ids
  if count == 0 then return end
  local fresh, held, broken = {}, {}, {}
  local fields = now .. '\t' .. now .. '\t\t\t\t\t' .. server .. '\t\t\t'
  local size = #reply
  for first = 1, count, CHUNK / 2 do
    local upto = math.min(first + CHUNK / 2 - 1, count)
    local texts = call('HMGET', base .. 'jobs', unpack(ids, first, upto))
    local payloads = call('HMGET', base .. 'payloads', unpack(ids, first, upto))
    for number, text in ipairs(texts) do
      local id, payload = ids[first + number - 1], payloads[number]
      local record = text and claimed(text, session)
      if record and payload then
        local two = #fresh
        fresh[two + 1] = id
        fresh[two + 2] = record .. fields
        held[two + 1] = now
        held[two + 2] = id
        reply[size + 1] = id
        reply[size + 2] = record
        reply[size + 3] = payload
        size = size + 3
      else
        broken[#broken + 1] = id
      end
    end
    if #fresh > 0 then
      call('HSET', base .. 'jobs', unpack(fresh))
      many('ZADD', base .. 'held:' .. session, held)
    end
    fresh, held = {}, {}
  end
  if #broken > 0 then set_aside(broken, names, lines) end
end
