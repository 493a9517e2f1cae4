-- The layout, the keys and the clock of a prefix. Included after library.lua.

local verbs = {}

-- Read the layout of the prefix: layout HASH version, partitions, in the first partition. If no layout is stored and
-- `is_written` is 1, store the layout first. Return the stored version and number of partitions, 0 and 0 for none.
function verbs.layout(version, partitions, is_written)
  local stored = call('HMGET', base .. 'layout', 'version', 'partitions')
  if not stored[1] and is_written == '1' then
    despite_full_memory()
    call('HSET', base .. 'layout', 'version', version, 'partitions', partitions)
    stored = { version, partitions }
  end
  return { tonumber(stored[1] or 0), tonumber(stored[2] or 0) }
end

-- Check the next keys of a partition, and delete those that match the pattern. The cursor is 0 at first; `count` is the
-- number of keys to check. Return the next cursor, 0 if all keys have been checked.
function verbs.clear(cursor, pattern, count)
  local following, keys = unpack(call('SCAN', cursor, 'MATCH', pattern, 'COUNT', count))
  unlink(keys)
  return following
end

-- Return the storage's clock in microseconds.
function verbs.clock()
  return int(clock())
end

return run(verbs)
