-- Small versioned records, including pauses of queues and settings of limits, in the first partition. Included after
-- library.lua, jobs.lua and record.lua.
--
-- paused is the SET of paused queues that a claim checks, and limits is the HASH of limit settings (see limits.lua). In
-- the first partition, both are changed together with the record. They are then copied as a whole to the other
-- partitions. pausing is the version of the copy that a partition has. Each partition gets a change in a separate call,
-- and a delayed call must not undo a later change. A version is the server's clock in microseconds, so versions keep
-- growing even after a failover that has lost the last ones.

local verbs = {}

-- Store the next version of the record if it has the expected version or no version is expected. `copied` has the same
-- meaning as in `put_record`. Return the new version, nil if the record has another version than the expected one.
function verbs.put(kind, key, value, expected, due_at, copied)
  local stored, version = stored_record(kind, key)
  if expected ~= '' and expected ~= version then return false end
  return put_record(stored, version, kind, key, value, due_at, copied)
end

-- Return the stored record, nil if there is none.
function verbs.get(kind, key)
  return call('HGET', base .. 'k:' .. kind, key)
end

-- Return 1 if records were left out, else 0; then each key and its stored record, for as many of the records as fit
-- into half a megabyte, but at least one.
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

-- Return records in order of key, starting after the given key. The reply has the form of `several`.
function verbs.list(kind, after, limit)
  return several(kind, call('ZRANGEBYLEX', base .. 'kz:' .. kind, '(' .. after, '+', 'LIMIT', 0, limit))
end

-- Return due records, longest due first, without the first `passed` ones. The reply has the form of `several`.
function verbs.due(kind, passed, limit)
  return several(kind, call('ZRANGEBYSCORE', base .. 'due:' .. kind, '-inf', int(clock()), 'LIMIT', passed, limit))
end

-- Delete the record if it has the expected version or no version is expected. Return the deleted version; nil if the
-- record does not exist or has another version than the expected one.
function verbs.delete(kind, key, expected)
  local stored, version = stored_record(kind, key)
  if not stored or (expected ~= '' and expected ~= version) then return false end
  despite_full_memory()
  call('HDEL', base .. 'k:' .. kind, key)
  call('ZREM', base .. 'kz:' .. kind, key)
  set_due(kind, key, '')
  call('SET', base .. 'kf:' .. kind, int(math.max(version, call('GET', base .. 'kf:' .. kind) or 0)))
  if kind == 'queue' then set_pause(key, false) end
  if kind == 'limit' then set_limit_settings(key, '') end
  return version
end

-- ---- copies in other partitions ------------------------------------------------------------------------------------

-- Return every paused queue and all limit settings. `known` is the latest version that another partition has, 0 if it
-- is not known. If `known` is later than the version here, a failover has lost that version, so the data here gets a
-- later one. Return the version, the number of queues, their names, then the key and the settings of each limit.
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

-- Replace the limit settings of this partition with the keys and settings in ARGV, from this position on. Return
-- whether the new settings differ from the previous ones.
local function copy_limit_settings(first)
  local before, changed, is_changed = {}, {}, false
  local flat = call('HGETALL', base .. 'limits')
  for two = 1, #flat, 2 do before[flat[two]] = flat[two + 1] end
  call('DEL', base .. 'limits')
  for arg = first, #ARGV, 2 do
    local key, settings = ARGV[arg], ARGV[arg + 1]
    call('HSET', base .. 'limits', key, settings)
    is_changed = is_changed or before[key] ~= settings
    changed[key] = begins_to_list(before[key] or '', settings) or nil
    before[key] = nil
  end
  for key, settings in pairs(before) do
    is_changed = true
    changed[key] = begins_to_list(settings, '') or nil
  end
  if next(changed) then list_present(changed) end
  return is_changed
end

-- Replace the paused queues and the limit settings of this partition with those of the first one, unless a later
-- version is stored here. ARGV from 4: the reply of `pauses` after its version. Return the version that is now stored
-- here.
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
  local is_news = copy_limit_settings(5 + count)
  for _, queue in ipairs(before) do
    is_news = is_news or call('SISMEMBER', paused, queue) == 0
  end
  if is_news then wake('*') end
  return stamp
end

return run(verbs)
