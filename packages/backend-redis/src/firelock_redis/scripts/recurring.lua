-- Recurring definitions, as functions. Behind library.lua, in front of records.lua and insert.lua.
--
-- rec:<id> HASH of one definition: version, definition (JSON), paused (1 or 0), next_at (nothing: never again),
-- progress (JSON); recs ZSET of every id, for their order; rdue ZSET next_at -> id of those that fire.
-- An instant stays the text that was given: a number of Lua holds no more than sixteen digits of it.

-- Version, definition, paused, next_at, progress; the first is false where there is no such definition.
local function recurring(id)
  return call('HMGET', base .. 'rec:' .. id, 'version', 'definition', 'paused', 'next_at', 'progress')
end

-- As many of the definitions as fit into half a megabyte, but at least one: 1 where some were left out, else 0; then id
-- and what `recurring` says of each.
local function several(ids)
  local reply, size = { 0 }, 0
  for _, id in ipairs(ids) do
    if size > 500000 then
      reply[1] = 1
      break
    end
    local stored = recurring(id)
    reply[#reply + 1] = id
    reply[#reply + 1] = stored
    size = size + #(stored[2] or '') + #(stored[5] or '')
  end
  return reply
end

-- The definition fires at the instant, or no more; whoever sleeps longer than that is told.
local function set_next(id, paused, next_at)
  if paused == '1' or next_at == '' then
    call('ZREM', base .. 'rdue', id)
    return
  end
  local first = first_score('rdue')
  call('ZADD', base .. 'rdue', next_at, id)
  if not first or tonumber(next_at) < tonumber(first) then wake('*') end
end

-- Whether the definition is what its reader saw, due at the instant it saw, and not paused; nothing is written.
local function may_fire(id, version, expected_next_at)
  local stored = call('HMGET', base .. 'rec:' .. id, 'version', 'paused', 'next_at')
  return stored[1] == version and stored[2] == '0' and stored[3] == expected_next_at
end

-- The progress is what it is after a firing that `may_fire` allowed in the same script.
local function fired(id, next_at, progress)
  call('HSET', base .. 'rec:' .. id, 'next_at', next_at, 'progress', progress)
  set_next(id, '0', next_at)
end
