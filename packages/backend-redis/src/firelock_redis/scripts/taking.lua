-- What a dead session holds is taken back, as a function. Behind jobs.lua, in front of end_session.lua and take_jobs.lua.

-- The job is back at its old place, with a crash or without a trace.
local function take_back(job, has_crashed, reason, not_started, now)
  leave(job)
  if has_crashed then
    job.history = job.history .. step('E', now, reason, job.attempt, job.claimed, job.started, job.server)
    job.crashes = int(job.crashes + 1)
  end
  job.state, job.reason, job.changed = 'E', has_crashed and reason or not_started, now
  job.attempt, job.session = int(job.attempt - 1), ''
  save(job)
  enter(job)
end

-- Ids named in JSON as a set; nil for null, which is all of them.
local function named(text)
  local ids = cjson.decode(text)
  if ids == cjson.null then return nil end
  local set = {}
  for _, id in ipairs(ids) do set[id] = true end
  return set
end

local function take_tails(session, limit)
  local key = base .. 'tails:' .. session
  local ids = call('SRANDMEMBER', key, limit)
  local texts = records(ids)
  for number, id in ipairs(ids) do
    local job = texts[number] and read(id, texts[number])
    if job and job.session == session then clear_tail(job) end
  end
  many('SREM', key, ids)
  return #ids
end

-- Take back up to `limit` jobs and tails of the session. Return those with a crash, those without, and 1 where some are
-- left.
local function take(session, running, reason, not_started, now, limit)
  local key, crashed, returned = base .. 'held:' .. session, {}, {}
  local blamed = named(running)
  local ids = call('ZRANGE', key, 0, limit - 1)
  local texts = records(ids)
  for number, id in ipairs(ids) do
    local job = texts[number] and read(id, texts[number])
    if job and job.state == 'P' and job.session == session then
      local has_crashed = not blamed or blamed[id] ~= nil
      take_back(job, has_crashed, reason, not_started, now)
      local list = has_crashed and crashed or returned
      list[#list + 1] = id
    else
      put(removes, 'held:' .. session, id)
    end
  end
  local taken = #ids
  if taken < limit then taken = taken + take_tails(session, limit - taken) end
  flush()
  return crashed, returned, taken >= limit and 1 or 0
end
