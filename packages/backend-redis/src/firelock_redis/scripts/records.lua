-- Small versioned records, pauses of queues among them. Behind library.lua; in the first partition.
--
-- k:<kind> HASH key -> "version value"; kz:<kind> ZSET of its keys, for their order; kd:<kind> ZSET of deleted keys by their
-- last version, and kf:<kind>, the highest version of those that were forgotten: of the rest only it is kept, from which
-- every key goes on that is not known. So versions never fall, some only grow faster.
--
-- paused is the SET of paused queues that a claim looks at. In the first partition it is changed with the queue's record,
-- and is copied whole to the others right after. pausing is the stamp of what a partition has: each hears of a change in
-- a call of its own, and what comes late must not undo what came after it. A stamp is micros of the server's clock, so
-- that it grows also behind a failover that has lost the last ones.

local verbs = {}

local REMEMBERED = 1000  -- highest versions of deleted keys of a kind

local function set_pause(queue, is_paused)
  if call(is_paused and 'SADD' or 'SREM', base .. 'paused', queue) == 0 then return end
  call('SET', base .. 'pausing', int(math.max(server_clock(), (call('GET', base .. 'pausing') or 0) + 1)))
  if not is_paused then wake('*') end
end

-- The record is stored as its next version, if it has the expected one or nothing is expected. Paused is 1 where the kind is
-- queue and the value pauses it, else 0; nothing for another kind. Reply the version; nil where another one was expected.
function verbs.put(kind, key, value, expected, paused)
  local stored = call('HGET', base .. 'k:' .. kind, key)
  local version = stored and match(stored, '^%d+') or '0'
  if expected ~= '' and expected ~= version then return false end
  if paused ~= '' then despite_full_memory() end  -- a queue is resumed: that is what drains it
  if not stored then version = call('ZSCORE', base .. 'kd:' .. kind, key) or call('GET', base .. 'kf:' .. kind) or 0 end
  version = int(version + 1)
  call('HSET', base .. 'k:' .. kind, key, version .. ' ' .. value)
  if not stored then
    call('ZADD', base .. 'kz:' .. kind, 0, key)
    call('ZREM', base .. 'kd:' .. kind, key)
  end
  if paused ~= '' then set_pause(key, paused == '1') end
  return version
end

-- Reply "version value", nil where there is no such record.
function verbs.get(kind, key)
  return call('HGET', base .. 'k:' .. kind, key)
end

-- Records in order of key, those that come after one, as many as fit into half a megabyte but at least one. Reply 1 where
-- others within the limit were left out, else 0; then key, "version value" of each.
function verbs.list(kind, after, limit)
  local reply, size = { 0 }, 0
  for _, key in ipairs(call('ZRANGEBYLEX', base .. 'kz:' .. kind, '(' .. after, '+', 'LIMIT', 0, limit)) do
    if size > 500000 then
      reply[1] = 1
      break
    end
    local value = call('HGET', base .. 'k:' .. kind, key)
    reply[#reply + 1] = key
    reply[#reply + 1] = value
    size = size + #value
  end
  return reply
end

-- The record is gone, if it has the expected version or nothing is expected; its version is remembered, so that a later put
-- goes on from it. Reply the version that was deleted; nil where there was none or another one was expected.
function verbs.delete(kind, key, expected)
  local stored = call('HGET', base .. 'k:' .. kind, key)
  local version = stored and match(stored, '^%d+')
  if not stored or (expected ~= '' and expected ~= version) then return false end
  despite_full_memory()
  call('HDEL', base .. 'k:' .. kind, key)
  call('ZREM', base .. 'kz:' .. kind, key)
  call('ZADD', base .. 'kd:' .. kind, version, key)
  if call('ZCARD', base .. 'kd:' .. kind) > REMEMBERED then
    local forgotten = tonumber(call('ZPOPMIN', base .. 'kd:' .. kind)[2])
    call('SET', base .. 'kf:' .. kind, int(math.max(forgotten, call('GET', base .. 'kf:' .. kind) or 0)))
  end
  if kind == 'queue' then set_pause(key, false) end
  return version
end

-- ---- pauses ----------------------------------------------------------------------------------------------------------

-- Every paused queue. Known is the latest stamp that another partition has, 0 for not known: where it is later than the one
-- here, that one was lost in a failover, and what is here gets a stamp behind it. Reply stamp, then the names.
function verbs.pauses(known)
  local stamp = call('GET', base .. 'pausing') or '0'
  if tonumber(stamp) < tonumber(known) then
    despite_full_memory()
    stamp = int(known + 1)
    call('SET', base .. 'pausing', stamp)
  end
  local reply = call('SMEMBERS', base .. 'paused')
  table.insert(reply, 1, stamp)
  return reply
end

-- The paused queues of this partition are those of the first one, unless later ones are known here. ARGV from 4: the names
-- of all that are paused. Reply the stamp of what is known here now.
function verbs.pause(stamp)
  local known = call('GET', base .. 'pausing') or '0'
  if tonumber(known) >= tonumber(stamp) then return known end
  despite_full_memory()
  local paused = base .. 'paused'
  local before = call('SMEMBERS', paused)
  call('DEL', paused)
  many('SADD', paused, words_from(4))
  call('SET', base .. 'pausing', stamp)
  for _, queue in ipairs(before) do
    if call('SISMEMBER', paused, queue) == 0 then
      wake('*')
      break
    end
  end
  return stamp
end

-- ---- recurring definitions, by the functions of recurring.lua ----------------------------------------------------------

-- The definition is stored if its version is the expected one, 0 for none. Keeps is 1 where the stored progress stays. Reply
-- next_at, progress as they are now; nil where the version had moved on.
function verbs.put_recurring(id, expected, version, definition, paused, next_at, progress, keeps)
  local stored = recurring(id)
  if (stored[1] or '0') ~= expected then return false end
  if keeps == '1' and stored[1] then next_at, progress = stored[4], stored[5] end
  call('HSET', base .. 'rec:' .. id, 'version', version, 'definition', definition, 'paused', paused, 'next_at', next_at,
    'progress', progress)
  call('ZADD', base .. 'recs', 0, id)
  set_next(id, paused, next_at)
  return { next_at, progress }
end

-- Reply what `recurring` says.
function verbs.get_recurring(id)
  return recurring(id)
end

-- Definitions in order of id, those that come after one. Reply what `several` says.
function verbs.list_recurring(after, limit)
  return several(call('ZRANGEBYLEX', base .. 'recs', '(' .. after, '+', 'LIMIT', 0, limit))
end

-- The definition is gone. Reply 1, 0 where there was none.
function verbs.remove_recurring(id)
  call('ZREM', base .. 'recs', id)
  call('ZREM', base .. 'rdue', id)
  return call('DEL', base .. 'rec:' .. id)
end

-- Definitions that are due and not paused, longest due first, some of them passed over. Reply what `several` says.
function verbs.due_recurring(passed, limit)
  return several(call('ZRANGEBYSCORE', base .. 'rdue', '-inf', int(clock()), 'LIMIT', passed, limit))
end

return run(verbs)
