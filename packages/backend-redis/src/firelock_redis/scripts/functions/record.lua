-- One small versioned record, as functions. Behind library.lua and jobs.lua, in front of records.lua and insert.lua.
--
-- k:<kind> HASH key -> "version due_at value", due_at nothing where there is none; kz:<kind> ZSET of its keys, for their
-- order; due:<kind> ZSET due_at -> key; kf:<kind>, the highest version of those that are gone, from which every other goes
-- on: so versions never fall, some only grow faster.
-- An instant stays the text that was given: a number of Lua holds no more than sixteen digits of it.

-- The record as it is stored and its version; nil and '0' where there is none.
local function stored_record(kind, key)
  local stored = call('HGET', base .. 'k:' .. kind, key)
  if stored then return stored, match(stored, '^%d+') end
  return nil, '0'
end

-- The record is found by this instant, or by none; whoever sleeps longer than a recurring job's is told.
local function set_due(kind, key, due_at)
  local name = 'due:' .. kind
  if due_at == '' then
    call('ZREM', base .. name, key)
    return
  end
  local first = first_score(name)
  call('ZADD', base .. name, due_at, key)
  if kind == 'recurring' and (not first or tonumber(due_at) < tonumber(first)) then wake('*') end
end

local function stamp()
  call('SET', base .. 'pausing', int(math.max(server_clock(), (call('GET', base .. 'pausing') or 0) + 1)))
end

local function set_pause(queue, is_paused)
  if call(is_paused and 'SADD' or 'SREM', base .. 'paused', queue) == 0 then return end
  stamp()
  if not is_paused then wake('*') end
end

-- The jobs that a session has, running or as tails, and that ask for limits: each is told with its record.
local function each_present(tell)
  local sessions, seen = {}, {}
  for _, some in ipairs({
    call('SMEMBERS', base .. 'living'), call('ZRANGE', base .. 'sx', 0, -1), call('ZRANGE', base .. 'ending', 0, -1),
  }) do
    for _, session in ipairs(some) do sessions[session] = true end
  end
  for session in pairs(sessions) do
    local ids = call('ZRANGE', base .. 'held:' .. session, 0, -1)
    for _, id in ipairs(call('SMEMBERS', base .. 'tails:' .. session)) do ids[#ids + 1] = id end
    for number, text in ipairs(records(ids)) do
      local holder, asks
      if text then holder, asks = match(text, RECORD.captures(session, asks)) end
      if asks and asks ~= '' and holder ~= '' and not seen[ids[number]] then
        seen[ids[number]] = true
        tell(ids[number], asks_of(asks), text)
      end
    end
  end
end

-- These keys and names may have got a number of jobs at once: who holds such a key now is listed.
local function list_present(changed)
  each_present(function(id, asks)
    for _, use in ipairs(asks.uses) do
      local key = use[USE.key]
      if changed[key] or changed[(string.gsub(key, ':[^/]*', ''))] then
        call('SADD', base .. 'slots:' .. key, use[USE.strict] ~= 0 and id .. '!' or id)
      end
    end
  end)
end

-- Whether keys that were not listed may be so from now on, by numbers as `limits` has them, nothing for none.
local function begins_to_list(before, after)
  local counted, had_any = match(before, '^%d') ~= nil, match(before, '^[^-]') or match(before, '^- [^-]')
  if match(after, '^%d') then return not counted end
  return had_any and not counted and not match(after, '^- [^-]')  -- those of the name count again
end

-- The numbers of a limit are these, nothing for none.
local function set_numbers(key, numbers)
  local before = call('HGET', base .. 'limits', key) or ''
  if numbers == '' then call('HDEL', base .. 'limits', key) else call('HSET', base .. 'limits', key, numbers) end
  if begins_to_list(before, numbers) then list_present({ [key] = true }) end
  stamp()
  wake('*')
end

-- The record, which is stored as this or not at all, is replaced. Copied is what every partition has of it: where the kind is
-- queue 1 if the value pauses it, else 0; where it is limit the numbers; nothing for another kind. Return its new version.
local function put_record(stored, version, kind, key, value, due_at, copied)
  if copied ~= '' then despite_full_memory() end  -- a queue is resumed, a limit raised: that is what drains it
  if not stored then version = call('GET', base .. 'kf:' .. kind) or 0 end
  version = int(version + 1)
  call('HSET', base .. 'k:' .. kind, key, version .. ' ' .. due_at .. ' ' .. value)
  if not stored then call('ZADD', base .. 'kz:' .. kind, 0, key) end
  set_due(kind, key, due_at)
  if kind == 'queue' then set_pause(key, copied == '1') end
  if kind == 'limit' then set_numbers(key, copied) end
  return version
end
