-- Delete up to `limit` expired jobs with all their data, and up to `limit` minutes of statistics that are older than
-- thirty days. Included after library.lua, batches.lua, jobs.lua and children.lua.
--
-- x:<minute> lists the jobs that should expire in that minute; their records determine whether they have expired. A job
-- that expires later in the current minute waits in `soon`, so that it is not checked twice. A job on the releasing
-- list is skipped: `release` lists it again.
--
-- If other jobs need a job, it is kept for another hour, or as long as its batch and its outer batches. This applies to
-- a member if one of these batches has not ended, to a called job if its caller has not ended, and to a job whose
-- result is used by a job that has not ended.
--
-- KEYS  1 base; derived: those of jobs.lua, batches.lua and children.lua, e: g: o:<id>, memo: os: (see memos.lua), sd
--       mz; soon ZSET of jobs, by expiry
-- ARGV  2 limit, 3 reason as JSON for children that still wait for a deleted job
-- Reply the number of deleted jobs, 1 if there is more to check, 1 if sessions.prune might find a dead session to
--       delete, 1 if there are keys for limit_keys.forget to check, and 1 if deleted jobs have freed keys

local BATCH, LOOKS, BYTES, CHILDREN = 25, 500, 1048576, 250
local SECONDS = 0.002

-- Return a time in seconds that advances while the script runs. From Redis 7.2 on, TIME does not advance during a
-- script, and os.clock exists from 7.4 on. In the versions between these, only the other bounds apply.
local library = rawget(_G, 'os')
local function stopwatch()
  if library then return library.clock() end
  local at = call('TIME')
  return at[1] + at[2] / 1000000
end
local HOUR = 3600 * 1000000
local DAY = 86400 * 1000000
local HEADER = RECORD.captures(state, flags, queue, session, error)
local EXPIRES = LAST.captures(expires)

local LOG_KEY, PROGRESS_KEY = base .. 'g:', base .. 'o:'

despite_full_memory()

local now = clock()
local minute, limit = math.floor(now / MINUTE), tonumber(ARGV[2])
local pruned, looks, bytes, children = 0, 0, 0, 0
local doomed, forgotten, is_doomed, queues = {}, {}, {}, {}

-- Remove some expired jobs from their list and return them; return an empty list if there are no more.
local function next_ids(count)
  local ids = call('ZRANGEBYSCORE', base .. 'soon', '-inf', int(now), 'LIMIT', 0, count)
  if #ids > 0 then
    many('ZREM', base .. 'soon', ids)
    return ids
  end
  while true do
    local at = call('ZRANGEBYSCORE', base .. 'xs', '-inf', minute, 'LIMIT', 0, 1)[1]
    if not at then return {} end
    ids = call('LPOP', base .. 'x:' .. at, count) or {}
    if #ids < count then call('ZREM', base .. 'xs', at) end
    if #ids > 0 then return ids end
  end
end

-- Delete some of the children that still wait for the job; return whether none is left.
local function delete_children(parent)
  local key = base .. 'pend:' .. parent.id
  local edges = call('ZRANGE', key, 0, CHILDREN - 1)
  local ids = {}
  for number, edge in ipairs(edges) do ids[number] = sub(edge, 3) end
  local seen = {}
  for _, child in ipairs(read_all(ids)) do
    if child and child.state == 'W' and not seen[child.id] then
      seen[child.id] = true
      end_child(child, parent, ARGV[3], int(now))
      follow(child)
    end
  end
  many('ZREM', key, edges)
  flush()
  children = children + #edges
  return #edges < CHILDREN
end

-- Delete some of the waiting members of the batch; return whether none is left.
local function delete_members(batch)
  local row = batches().row_of(batch.id)
  if not row or row.waiting == 0 then return true end
  local walk = call('HGET', base .. 'pruned', batch.id) or 0
  local ids = call('ZRANGE', base .. 'bm:' .. batch.id, walk, walk + CHILDREN - 1)
  for _, member in ipairs(read_all(ids)) do
    if member and member.state == 'W' then
      if not is(member, 'b') then leave(member) end
      end_child(member, batch, ARGV[3], int(now))
      save(member)
      enter(member)
      announce(member)
    end
  end
  flush()
  children = children + #ids
  if #ids < CHILDREN then
    call('HDEL', base .. 'pruned', batch.id)
    return true
  end
  call('HSET', base .. 'pruned', batch.id, int(walk + #ids))
  return false
end

-- Return whether this job, which has children or is a batch, is no longer needed by any child or member.
local function is_childless(id, text)
  if call('ZSCORE', base .. 'releasing', id) then return false end
  local parent = read(id, text)
  local is_left = children >= CHILDREN or (is(parent, 'b') and not delete_members(parent))
  if not is_left and delete_children(parent) then return true end
  expires(parent.expires, id)  -- the remaining children or members are deleted later
  return false
end

-- Return the time until which the job's batch or an outer batch needs the job, 0 for none.
local function kept_by(batch)
  local at = 0
  while batch and batch ~= '' do
    local text = call('HGET', base .. 'jobs', batch)
    if not text then break end
    local expires_at = FINAL[sub(text, 1, 1)] and not call('ZSCORE', base .. 'releasing', batch) and match(text, EXPIRES)
    at = math.max(at, tonumber(expires_at or '') or now + HOUR)
    local row = batches().row_of(batch)
    batch = row and row.outer
  end
  return at
end

-- Return whether other jobs need the job, which has flags; if so, postpone its expiry.
local function is_needed(id, text)
  local job, at = read(id, text), 0
  if is(job, 'm') or is(job, 'c') then
    local relations = batches().relations_of(job)
    local caller = relations.caller and call('HGET', base .. 'jobs', relations.caller)
    at = math.max(kept_by(relations.batch), caller and not FINAL[sub(caller, 1, 1)] and now + HOUR or 0)
  end
  if call('EXISTS', base .. 'in:' .. id) == 1 then at = math.max(at, now + HOUR) end
  if at <= now then return false end
  job.expires = int(at)
  save(job)
  expires(job.expires, id)
  return true
end

-- Remove the job from the lists of its tags, its recurring job, its parents and its batch.
local function forget_lists(id)
  local fields, size = optional_fields(id)
  bytes = bytes + size
  if not fields then return end
  local tags, recurring = fields[OPTIONAL.tags], fields[OPTIONAL.recurring_id]
  local parents, relations = fields[OPTIONAL.parents], fields[OPTIONAL.relations_json]
  for _, tag in ipairs(tags) do put(removes, 't:' .. tag, id) end
  if recurring ~= cjson.null then put(removes, 'rj:' .. recurring, id) end
  for _, edge in ipairs(parents) do put(removes, 'c:' .. edge[EDGE.parent_id], id) end
  local is_read, decoded = pcall(cjson.decode, relations)
  local batch = is_read and type(decoded) == 'table' and decoded[RELATIONS.batch]
  if type(batch) == 'string' then put(removes, 'bm:' .. batch, id) end
end

-- Delete the data that the job's flags indicate.
local function forget_flagged(id, flag)
  if find(flag, 'b', 1, true) then
    doomed[#doomed + 1] = base .. 'b:' .. id
    batches().forget(id)
    call('ZREM', base .. 'changed', id)
  end
  if find(flag, '[rf]') then doomed[#doomed + 1] = base .. 'memo:' .. id end
  if find(flag, 's', 1, true) then
    for _, stream in ipairs(call('HKEYS', base .. 'os:' .. id)) do doomed[#doomed + 1] = base .. 'o:' .. id .. ':' .. stream end
    doomed[#doomed + 1] = base .. 'os:' .. id
  end
end

-- Return the admission of the job, nil or false for most jobs.
local function admission_in(text)
  local admission = match(text, RECORD.captures(admission))
  return admission and admission ~= '' and admission_of(admission)
end

-- Delete the unique key that refers to the job, unless the key must stay taken for longer.
local function forget_unique(id, text)
  local admission = admission_in(text)
  local use = admission and admission.unique
  local owner = use and call('HGET', base .. 'unique', use[UNIQUE.key]) or ''
  local free_at, holder = match(owner, UNIQUE_OWNER.captures(free_at, id))
  if holder == id and tonumber(free_at) <= now then
    call('HDEL', base .. 'unique', use[UNIQUE.key])
    put(removes, 'uz', use[UNIQUE.key])
  end
end

-- Note that the job no longer belongs to a session, so that servers that wait for its keys are notified.
local function free(text)
  local admission = admission_in(text)
  if admission and admission.lane ~= '' then freed[admission.lane] = true end
end

local function doom(id, text, state, queue, session, has_failed)
  local size = #doomed
  doomed[size + 1], doomed[size + 2] = LOG_KEY .. id, PROGRESS_KEY .. id
  if has_failed then doomed[size + 3] = base .. 'e:' .. id end
  forgotten[#forgotten + 1] = id
  is_doomed[id] = true
  put(removes, 'all', id)
  put(removes, 'l:' .. state .. ':' .. queue, id)
  if session ~= '' then
    put(cut, session, id)
    free(text)
  end
  forget_lists(id)
  forget_unique(id, text)
  queues[queue] = true
  pruned = pruned + 1
end

local function prune_if_expired(id, text)
  local state, flag, queue, session, last_error = match(text, HEADER)
  local at = FINAL[state] and tonumber(match(text, EXPIRES))
  if not at or is_doomed[id] then return end
  if at > now then
    if math.floor(at / MINUTE) == minute then add('soon', int(at), id) end
  elseif flag == '' or (not is_needed(id, text) and is_childless(id, text)) then
    doom(id, text, state, queue, session, last_error ~= '')
    if flag ~= '' then forget_flagged(id, flag) end
  end
end

-- Remove the queues that have no jobs left from the lists of queues.
local function forget_queues()
  for queue in pairs(queues) do
    local lists = {}
    for state in pairs(NAMES) do lists[#lists + 1] = base .. 'l:' .. state .. ':' .. queue end
    if call('EXISTS', unpack(lists)) == 0 and call('HEXISTS', base .. 'running', queue) == 0 then
      call('SREM', base .. 'queues', queue)
      call('SREM', base .. 'work', queue)
    end
  end
end

local began, ids = stopwatch(), nil
repeat
  ids = next_ids(math.min(BATCH, limit - pruned))
  looks = looks + #ids
  local texts = records(ids)
  for number, id in ipairs(ids) do
    local text = texts[number]
    if text then
      bytes = bytes + #text
      prune_if_expired(id, text)
    end
  end
until #ids == 0 or pruned >= limit or looks >= LOOKS or bytes > BYTES or children >= CHILDREN
  or stopwatch() - began > SECONDS
unlink(doomed)
flush()
many('HDEL', base .. 'jobs', forgotten)
many('HDEL', base .. 'payloads', forgotten)
forget_queues()

local has_freed = next(freed) and 1 or 0
notify_freed()

local old = call('ZRANGEBYSCORE', base .. 'mz', '-inf', '(' .. int(now - 30 * DAY), 'LIMIT', 0, limit)
local minutes = {}
for place, at in ipairs(old) do minutes[place] = base .. 'm:' .. at end
unlink(minutes)
many('ZREM', base .. 'mz', old)

local forget_at = first_score('sd')
return {
  pruned, #ids > 0 and 1 or 0, forget_at and tonumber(forget_at) <= now and 1 or 0,
  call('EXISTS', base .. 'lanes', base .. 'uz') > 0 and 1 or 0, has_freed,
}
