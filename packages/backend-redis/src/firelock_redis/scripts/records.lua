-- Small versioned records, pauses of queues among them. Behind library.lua and record.lua; in the first partition.
--
-- paused is the SET of paused queues that a claim looks at. In the first partition it is changed with the queue's record,
-- and is copied whole to the others right after. pausing is the stamp of what a partition has: each hears of a change in
-- a call of its own, and what comes late must not undo what came after it. A stamp is micros of the server's clock, so
-- that it grows also behind a failover that has lost the last ones.

local verbs = {}

-- The record is stored as its next version, if it has the expected one or nothing is expected. Paused as in `put_record`.
-- Reply the version; nil where another one was expected.
function verbs.put(kind, key, value, expected, due_at, paused)
  local stored, version = stored_record(kind, key)
  if expected ~= '' and expected ~= version then return false end
  return put_record(stored, version, kind, key, value, due_at, paused)
end

-- Reply the record as it is stored, nil where there is no such record.
function verbs.get(kind, key)
  return call('HGET', base .. 'k:' .. kind, key)
end

-- As many of the records as fit into half a megabyte, but at least one. Reply 1 where some were left out, else 0; then each
-- key and the record as it is stored.
local function several(kind, keys)
  local reply, size = { 0 }, 0
  for _, key in ipairs(keys) do
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

-- Records in order of key, those that come after one. Reply what `several` says.
function verbs.list(kind, after, limit)
  return several(kind, call('ZRANGEBYLEX', base .. 'kz:' .. kind, '(' .. after, '+', 'LIMIT', 0, limit))
end

-- Records that are due, longest due first, some of them passed over. Reply what `several` says.
function verbs.due(kind, passed, limit)
  return several(kind, call('ZRANGEBYSCORE', base .. 'due:' .. kind, '-inf', int(clock()), 'LIMIT', passed, limit))
end

-- The record is gone, if it has the expected version or nothing is expected. Reply the version that was deleted; nil where
-- there was none or another one was expected.
function verbs.delete(kind, key, expected)
  local stored, version = stored_record(kind, key)
  if not stored or (expected ~= '' and expected ~= version) then return false end
  despite_full_memory()
  call('HDEL', base .. 'k:' .. kind, key)
  call('ZREM', base .. 'kz:' .. kind, key)
  set_due(kind, key, '')
  call('SET', base .. 'kf:' .. kind, int(math.max(version, call('GET', base .. 'kf:' .. kind) or 0)))
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

return run(verbs)
