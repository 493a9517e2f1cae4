-- A prefix as a whole. Behind library.lua.

local verbs = {}

-- How the keys of the prefix are laid out: layout HASH version, partitions, in the first partition; it is written if there is
-- none and `is_written` is 1. Reply version and number of partitions as stored, 0 and 0 for none.
function verbs.layout(version, partitions, is_written)
  local stored = call('HMGET', base .. 'layout', 'version', 'partitions')
  if not stored[1] and is_written == '1' then
    despite_full_memory()
    call('HSET', base .. 'layout', 'version', version, 'partitions', partitions)
    stored = { version, partitions }
  end
  return { tonumber(stored[1] or 0), tonumber(stored[2] or 0) }
end

-- Some of the keys of a partition are gone: of so many behind the cursor, 0 at first, those that are like the pattern. Reply
-- the next cursor, 0 when all were looked at.
function verbs.clear(cursor, pattern, count)
  local following, keys = unpack(call('SCAN', cursor, 'MATCH', pattern, 'COUNT', count))
  unlink(keys)
  return following
end

-- Reply the storage's clock in micros.
function verbs.clock()
  return int(clock())
end

return run(verbs)
