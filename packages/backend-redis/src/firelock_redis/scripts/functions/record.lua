-- Small versioned records. Included after library.lua and jobs.lua, before records.lua and insert.lua.
--
--   k:<kind> HASH: key -> "version due_at value"; due_at is empty if there is none
--   kz:<kind> ZSET: the keys of these records, in order
--   due:<kind> ZSET: the keys, by due_at
--   kf:<kind>: the highest version of the deleted records
-- The versions of a new record start after this highest version, regardless of its key. So versions never decrease,
-- although some grow faster than others. Times remain strings, because a Lua number has at most sixteen exact digits.

-- Return the stored record and its version; nil and '0' if there is none.
local function stored_record(kind, key)
  local stored = call('HGET', base .. 'k:' .. kind, key)
  if stored then return stored, match(stored, '^%d+') end
  return nil, '0'
end

-- Set the due time of a record, or remove it if `due_at` is empty. Notify servers if the record is a recurring job with
-- the earliest due time.
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

-- Call `visit` with the record of each job with limits that a session holds or has as a tail.
local function each_present(visit)
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
      local holder, admission
      if text then holder, admission = match(text, RECORD.captures(session, admission)) end
      if admission and admission ~= '' and holder ~= '' and not seen[ids[number]] then
        seen[ids[number]] = true
        visit(ids[number], admission_of(admission), text)
      end
    end
  end
end

-- Add the jobs that hold these keys, or keys of these names, to the lists of the keys, because the number of concurrent
-- jobs might be limited from now on.
local function list_present(changed)
  each_present(function(id, admission)
    for _, use in ipairs(admission.uses) do
      local key = use[USE.key]
      if changed[key] or changed[(string.gsub(key, ':[^/]*', ''))] then
        call('SADD', base .. 'slots:' .. key, use[USE.strict] ~= 0 and id .. '!' or id)
      end
    end
  end)
end

-- Return whether the holders of keys might have to be listed from now on although they were not listed before. The
-- arguments are settings from `limits`, or empty strings.
local function begins_to_list(before, after)
  local counted, had_any = match(before, '^%d') ~= nil, match(before, '^[^-]') or match(before, '^- [^-]')
  if match(after, '^%d') then return not counted end
  return had_any and not counted and not match(after, '^- [^-]')  -- the settings of the name become effective again
end

-- Set the settings of a limit; an empty string removes them.
local function set_limit_settings(key, settings)
  local before = call('HGET', base .. 'limits', key) or ''
  if settings == '' then call('HDEL', base .. 'limits', key) else call('HSET', base .. 'limits', key, settings) end
  if begins_to_list(before, settings) then list_present({ [key] = true }) end
  stamp()
  wake('*')
end

-- Replace the record; `stored` is the current one, or nil. `copied` is the part that is copied to every partition: for
-- the kind queue, 1 if the value pauses it, else 0; for the kind limit, its settings; empty for other kinds. Return the
-- new version.
local function put_record(stored, version, kind, key, value, due_at, copied)
  if copied ~= '' then despite_full_memory() end  -- a resumed queue or a raised limit lets jobs end, which frees memory
  if not stored then version = call('GET', base .. 'kf:' .. kind) or 0 end
  version = int(version + 1)
  call('HSET', base .. 'k:' .. kind, key, version .. ' ' .. due_at .. ' ' .. value)
  if not stored then call('ZADD', base .. 'kz:' .. kind, 0, key) end
  set_due(kind, key, due_at)
  if kind == 'queue' then set_pause(key, copied == '1') end
  if kind == 'limit' then set_limit_settings(key, copied) end
  return version
end
