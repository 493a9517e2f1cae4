-- One small versioned record, as functions. Behind library.lua, in front of records.lua and insert.lua.
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

local function set_pause(queue, is_paused)
  if call(is_paused and 'SADD' or 'SREM', base .. 'paused', queue) == 0 then return end
  call('SET', base .. 'pausing', int(math.max(server_clock(), (call('GET', base .. 'pausing') or 0) + 1)))
  if not is_paused then wake('*') end
end

-- The record, which is stored as this or not at all, is replaced. Paused is 1 where the kind is queue and the value pauses
-- it, else 0; nothing for another kind. Return its new version.
local function put_record(stored, version, kind, key, value, due_at, paused)
  if paused ~= '' then despite_full_memory() end  -- a queue is resumed: that is what drains it
  if not stored then version = call('GET', base .. 'kf:' .. kind) or 0 end
  version = int(version + 1)
  call('HSET', base .. 'k:' .. kind, key, version .. ' ' .. due_at .. ' ' .. value)
  if not stored then call('ZADD', base .. 'kz:' .. kind, 0, key) end
  set_due(kind, key, due_at)
  if paused ~= '' then set_pause(key, paused == '1') end
  return version
end
