-- Small versioned records, including pauses of queues and numbers of limits. Behind library.lua, jobs.lua and
-- record.lua; in the first partition.
--
-- paused is the SET of paused queues that a claim checks, limits the HASH of numbers (see limits.lua). In the first
-- partition they are changed together with the record; right after, they are copied as a whole to the others. pausing
-- is the stamp of the copy that a partition has. Each partition gets a change in a separate call, and a late call
-- must not undo a later change. A stamp is the server's clock in microseconds, so that stamps keep growing after a
-- failover that has lost the last ones.

local verbs = {}

-- Store the record as its next version, if it has the expected version or none is expected. `copied` is as in
-- `put_record`. Return the version; nil if another version was expected.
function verbs.put(kind, key, value, expected, due_at, copied)
  local stored, version = stored_record(kind, key)
  if expected ~= '' and expected ~= version then return false end
  return put_record(stored, version, kind, key, value, due_at, copied)
end

-- Return the record as it is stored, nil if there is none.
function verbs.get(kind, key)
  return call('HGET', base .. 'k:' .. kind, key)
end

-- Return as many of the records as fit into half a megabyte, but at least one: 1 if some were left out, else 0; then
-- each key and its record as it is stored.
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

-- Return records in order of key, starting after a key, in the form of `several`.
function verbs.list(kind, after, limit)
  return several(kind, call('ZRANGEBYLEX', base .. 'kz:' .. kind, '(' .. after, '+', 'LIMIT', 0, limit))
end

-- Return records that are due, longest due first, without the first `passed` ones, in the form of `several`.
function verbs.due(kind, passed, limit)
  return several(kind, call('ZRANGEBYSCORE', base .. 'due:' .. kind, '-inf', int(clock()), 'LIMIT', passed, limit))
end

-- Delete the record, if it has the expected version or none is expected. Return the deleted version; nil if there was
-- no record or another version was expected.
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

-- ---- copies in other partitions ------------------------------------------------------------------------------------

-- Return every paused queue, and all numbers. `known` is the latest stamp that another partition has, 0 if it is not
-- known. If it is later than the stamp here, a failover has lost that stamp, and the data here gets a later one.
-- Return the stamp, the number of queues, their names, then the key and the numbers of each limit.
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

-- Replace the numbers of this partition with the keys and numbers in ARGV from this place on. Return whether any of
-- them is different.
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

-- Replace the paused queues and the numbers of this partition with those of the first one, unless later ones are
-- stored here. ARGV from 4: the reply of `pauses` after its stamp. Return the stamp of the data that is stored here
-- now.
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
