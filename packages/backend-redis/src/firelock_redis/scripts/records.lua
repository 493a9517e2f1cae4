-- Small versioned records, pauses of queues and numbers of limits among them. Behind library.lua, jobs.lua and record.lua; in
-- the first partition.
--
-- paused is the SET of paused queues that a claim looks at, limits the HASH of numbers (see limits.lua). In the first partition
-- they are changed with the record, and are copied whole to the others right after. pausing is the stamp of what a partition
-- has: each hears of a change in a call of its own, and what comes late must not undo what came after it. A stamp is micros of
-- the server's clock, so that it grows also behind a failover that has lost the last ones.

local verbs = {}

-- The record is stored as its next version, if it has the expected one or nothing is expected. Copied as in `put_record`.
-- Reply the version; nil where another one was expected.
function verbs.put(kind, key, value, expected, due_at, copied)
  local stored, version = stored_record(kind, key)
  if expected ~= '' and expected ~= version then return false end
  return put_record(stored, version, kind, key, value, due_at, copied)
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
  if kind == 'limit' then set_numbers(key, '') end
  return version
end

-- ---- what every partition has of them ------------------------------------------------------------------------------

-- Every paused queue, and all numbers. Known is the latest stamp that another partition has, 0 for not known: where it is later
-- than the one here, that one was lost in a failover, and what is here gets a stamp behind it. Reply stamp, number of queues,
-- their names, then key and numbers of each limit.
function verbs.pauses(known)
  local stamp = call('GET', base .. 'pausing') or '0'
  if tonumber(stamp) < tonumber(known) then
    despite_full_memory()
    stamp = int(known + 1)
    call('SET', base .. 'pausing', stamp)
  end
  local paused = call('SMEMBERS', base .. 'paused')
  local reply = { stamp, #paused }
  for _, queue in ipairs(paused) do reply[#reply + 1] = queue end
  for _, word in ipairs(call('HGETALL', base .. 'limits')) do reply[#reply + 1] = word end
  return reply
end

-- The numbers of this partition are these: key, numbers, … in ARGV from a place on. Return whether some are others.
local function copy_numbers(first)
  local before, changed, is_changed = {}, {}, false
  local flat = call('HGETALL', base .. 'limits')
  for two = 1, #flat, 2 do before[flat[two]] = flat[two + 1] end
  call('DEL', base .. 'limits')
  for arg = first, #ARGV, 2 do
    local key, numbers = ARGV[arg], ARGV[arg + 1]
    call('HSET', base .. 'limits', key, numbers)
    is_changed = is_changed or before[key] ~= numbers
    changed[key] = begins_to_list(before[key] or '', numbers) or nil
    before[key] = nil
  end
  for key, numbers in pairs(before) do
    is_changed = true
    changed[key] = begins_to_list(numbers, '') or nil
  end
  if next(changed) then list_present(changed) end
  return is_changed
end

-- The paused queues and the numbers of this partition are those of the first one, unless later ones are known here. ARGV from 4:
-- what `pauses` replies behind its stamp. Reply the stamp of what is known here now.
function verbs.pause(stamp, count)
  local known = call('GET', base .. 'pausing') or '0'
  if tonumber(known) >= tonumber(stamp) then return known end
  despite_full_memory()
  local paused, names = base .. 'paused', {}
  local before = call('SMEMBERS', paused)
  for number = 1, tonumber(count) do names[number] = ARGV[4 + number] end
  call('DEL', paused)
  many('SADD', paused, names)
  call('SET', base .. 'pausing', stamp)
  local is_news = copy_numbers(5 + count)
  for _, queue in ipairs(before) do
    is_news = is_news or call('SISMEMBER', paused, queue) == 0
  end
  if is_news then wake('*') end
  return stamp
end

return run(verbs)
