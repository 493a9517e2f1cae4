-- The start, reconciliation and end of sessions. Included after library.lua, batches.lua and jobs.lua. Verbs that do
-- not need jobs are in leases.lua.
--
-- The first partition stores a session:
--   s:<session> HASH: alive (1 or 0), server (its name as JSON), server_id, info (a SESSION as JSON),
--     timeout in microseconds, expires_at, renewal (JSON or empty); while the session is closing, also running and
--     reason
--   ss ZSET: all sessions, by started_at
--   sl ZSET: living sessions, by started_at; sx: the same, by expires_at; sb: by expires_at minus two timeouts
--   sd ZSET: dead sessions, by the time from which they may be deleted
--   dead:<server id> SET: dead sessions of a server that has not begun another session since their death
--   ending ZSET: dead sessions that might still hold jobs, by the time of their death
-- The other partitions store the data that claims need: s:<session> HASH alive, server; living SET of the sessions
-- that are alive there. The keys for the jobs of a session are described in jobs.lua.

local HOUR, DAY = 3600 * 1000000, 86400 * 1000000

local verbs = {}

-- Begin a session, which expires after its timeout from now; a stored session remains unchanged. Return 1 if the
-- session is alive.
function verbs.begin(session, server, info, started_at, timeout, server_id)
  despite_full_memory()
  local key = base .. 's:' .. session
  local alive = call('HGET', key, 'alive')
  if alive then return tonumber(alive) end
  for _, dead in ipairs(call('SMEMBERS', base .. 'dead:' .. server_id)) do
    call('ZINCRBY', base .. 'sd', HOUR - DAY, dead)  -- delete this one earlier, because another session has begun
  end
  call('UNLINK', base .. 'dead:' .. server_id)
  local expires_at = int(clock() + timeout)
  call('HSET', key, 'alive', '1', 'server', server, 'server_id', server_id, 'info', info, 'timeout', timeout,
    'expires_at', expires_at, 'renewal', '')
  call('ZADD', base .. 'ss', started_at, session)
  call('ZADD', base .. 'sl', started_at, session)
  call('ZADD', base .. 'sx', expires_at, session)
  call('ZADD', base .. 'sb', int(expires_at - 2 * timeout), session)
  return 1
end

-- Allow a session that is alive in the first partition to claim in this one. A session that is already stored here is
-- not changed, because it might be dead.
function verbs.admit(session, server)
  despite_full_memory()
  local key = base .. 's:' .. session
  if call('EXISTS', key) == 1 then return end
  call('HSET', key, 'alive', '1', 'server', server)
  call('SADD', base .. 'living', session)
end

-- ---- reconciliation --------------------------------------------------------------------------------------------

-- Compare the jobs that the session holds in this partition with the jobs that its worker process believes it holds.
-- ARGV from 4: a HELD_JOB for each job that the worker process believes it holds. Return 1 if the session is alive
-- here; a LOST_JOB for each of these jobs that the session does not hold; and an UNKNOWN_JOB for each other job of
-- the session.
function verbs.reconcile(session)
  local STARTED = LAST.captures(started)
  local ids = call('ZRANGE', base .. 'held:' .. session, 0, -1)
  for _, id in ipairs(call('SMEMBERS', base .. 'tails:' .. session)) do ids[#ids + 1] = id end
  local stored, fences, texts = records(ids), {}, {}
  for number, id in ipairs(ids) do
    local text = stored[number]
    if text then fences[id], texts[id] = match(text, RECORD.captures(fence)), text end
  end
  local lost, lost_ids, started, unknown = {}, {}, {}, {}
  for arg = 4, #ARGV, HELD_JOB.width do
    local id, fence, at = ARGV[arg + HELD_JOB.id], ARGV[arg + HELD_JOB.fence], ARGV[arg + HELD_JOB.started]
    local is_named = fences[id] == fence
    if is_named then fences[id] = nil end
    if not is_named or sub(texts[id], 1, 1) ~= 'P' then
      lost[#lost + 1] = { [LOST_JOB.number] = (arg - 4) / HELD_JOB.width }
      lost_ids[#lost_ids + 1] = id
    elseif at ~= '' then
      local _, after, was = find(texts[id], STARTED)
      if after and was ~= at then
        started[#started + 1] = id
        started[#started + 1] = sub(texts[id], 1, after - #was - 1) .. at .. sub(texts[id], after)
      end
    end
  end
  for number, text in ipairs(records(lost_ids)) do
    if text then
      local state, fence, holder = match(text, RECORD.captures(state, fence, session))
      local answer = lost[number]
      -- Return a failed job for an unreadable record, with a fence that no claim has.
      answer[LOST_JOB.state], answer[LOST_JOB.fence] = state or 'F', fence or '0'
      answer[LOST_JOB.tail] = holder and holder ~= '' and state ~= 'P' and 1 or 0
    end
  end
  if #started > 0 then
    despite_full_memory()
    many('HSET', base .. 'jobs', started)
  end
  for _, id in ipairs(ids) do
    if fences[id] then
      unknown[#unknown + 1] = {
        [UNKNOWN_JOB.id] = id, [UNKNOWN_JOB.record] = texts[id],
        [UNKNOWN_JOB.payload] = call('HGET', base .. 'payloads', id),
      }
    end
  end
  return { call('HGET', base .. 's:' .. session, 'alive') == '1' and 1 or 0, lost, unknown }
end

-- ---- expiry ----------------------------------------------------------------------------------------------------

-- Return the earlier and the later of two times: the time by Redis's clock and the caller's time. `as_of` is 1 if the
-- caller has not passed a time.
local function clocks(now, as_of)
  as_of = as_of == '1' and now or tonumber(as_of)
  return math.min(now, as_of), math.max(now, as_of)
end

-- Return whether a session was renewed before the clock was set back: its expiry is more than two timeouts in the
-- future.
local function is_from_later(expires_at, timeout, latest)
  return tonumber(expires_at) > latest + 2 * tonumber(timeout)
end

-- ---- end -------------------------------------------------------------------------------------------------------

-- Return the job to its old place in the queue. After a crash, add a line to its history and count the crash.
local function return_job(job, has_crashed, reason, not_started, now)
  leave(job)
  if has_crashed then
    job.history = job.history .. entry_line('E', now, reason, job.attempt, job.claimed, job.started, job.server)
    job.crashes = int(job.crashes + 1)
  end
  job.state, job.reason, job.changed = 'E', has_crashed and reason or not_started, now
  job.attempt, job.session = int(job.attempt - 1), ''
  save(job)
  enter(job)
end

local function take_tails(session, limit)
  local key = base .. 'tails:' .. session
  local ids = call('SRANDMEMBER', key, limit)
  for _, job in ipairs(read_all(ids)) do
    if job and job.session == session then clear_tail(job) end
  end
  many('SREM', key, ids)
  return #ids
end

-- Take up to `limit` jobs and tails from the session. `running` contains the ids of the jobs for which a crash is
-- counted, as JSON; null for all. Return 1 if more are left, the ids of the jobs that crashed, and the ids of the other
-- jobs.
local function take(session, running, reason, not_started, limit)
  local now, crashed, returned, blamed = int(clock()), {}, {}, nil
  if running ~= 'null' then
    blamed = {}
    for _, id in ipairs(cjson.decode(running)) do blamed[id] = true end
  end
  local ids = call('ZRANGE', base .. 'held:' .. session, 0, limit - 1)
  for number, job in ipairs(read_all(ids)) do
    local id = ids[number]
    if job and job.state == 'P' and job.session == session then
      local has_crashed = not blamed or blamed[id] ~= nil
      return_job(job, has_crashed, reason, not_started, now)
      local list = has_crashed and crashed or returned
      list[#list + 1] = id
    else
      put(removes, 'held:' .. session, id)
    end
  end
  local taken = #ids
  if taken < tonumber(limit) then taken = taken + take_tails(session, limit - taken) end
  flush()
  notify_freed()
  return taken >= tonumber(limit) and 1 or 0, crashed, returned
end

-- End the session permanently, and take its jobs in the first partition. If more jobs must be taken, `ending` contains
-- the session until `finished` runs. The data that is kept with the session allows any process to continue.
--
-- Reasons are JSON; jobs that had not started get the reason `not_started`. `expired_by` is 0 or, if the session must
-- have expired, 1 or the caller's time: see `orphans`. Return an ENDED, or nil if the session must not be ended now.
function verbs.finish(session, running, reason, not_started, limit, has_partitions, expired_by)
  despite_full_memory()
  local now, key = clock(), base .. 's:' .. session
  local alive, server, server_id, expires_at, timeout =
    unpack(call('HMGET', key, 'alive', 'server', 'server_id', 'expires_at', 'timeout'))
  if alive == '1' then
    if expired_by ~= '0' then
      local earliest, latest = clocks(now, expired_by)
      if tonumber(expires_at) > earliest and not is_from_later(expires_at, timeout, latest) then return false end
    end
    call('HSET', key, 'alive', '0')
    for _, order in ipairs({ 'sl', 'sx', 'sb' }) do call('ZREM', base .. order, session) end
    call('ZADD', base .. 'sd', int(now + DAY), session)
    call('SADD', base .. 'dead:' .. server_id, session)
  elseif call('ZSCORE', base .. 'ending', session) then
    running, reason = unpack(call('HMGET', key, 'running', 'reason'))
  else
    return false
  end
  local more, crashed, returned = take(session, running, reason, not_started, limit)
  if has_partitions == '1' then more = 1 end
  if more == 1 then
    call('HSET', key, 'running', running, 'reason', reason)
    call('ZADD', base .. 'ending', int(now), session)
  end
  return {
    [ENDED.server] = server, [ENDED.more] = more, [ENDED.running] = running, [ENDED.reason] = reason,
    [ENDED.crashed] = crashed, [ENDED.returned] = returned,
  }
end

-- Take the jobs that a dead session holds in this partition. In the first partition, it is already marked as dead, and
-- `milliseconds` is 0. In another partition, mark it as dead for this number of milliseconds, even if it is unknown
-- there. This is longer than a claim or the start of the session can take. Return 1 if the session holds more jobs, the
-- ids of the jobs that crashed, and the ids of the other jobs.
function verbs.take(session, running, reason, not_started, limit, milliseconds)
  despite_full_memory()
  if milliseconds ~= '0' then
    call('HSET', base .. 's:' .. session, 'alive', '0')
    call('PEXPIRE', base .. 's:' .. session, milliseconds)
  end
  local more, crashed, returned = take(session, running, reason, not_started, limit)
  if more == 0 then call('SREM', base .. 'living', session) end
  return { more, crashed, returned }
end

-- Note that a dead session no longer holds jobs or tails in any partition.
function verbs.finished(session)
  call('ZREM', base .. 'ending', session)
  call('HDEL', base .. 's:' .. session, 'running', 'reason')
end

-- Delete up to `limit` dead sessions: one hour after their death if their server has begun another session since then,
-- otherwise one day after it. ARGV from 4: the sessions that are alive in other partitions. Return those of them that
-- are dead or unknown here and are not in `ending`.
function verbs.prune(limit)
  despite_full_memory()
  local strays = {}
  for _, session in ipairs(call('ZRANGEBYSCORE', base .. 'sd', '-inf', int(clock()), 'LIMIT', 0, limit)) do
    if not call('ZSCORE', base .. 'ending', session) then
      call('SREM', base .. 'dead:' .. call('HGET', base .. 's:' .. session, 'server_id'), session)
      call('UNLINK', base .. 's:' .. session)
      call('ZREM', base .. 'sd', session)
      call('ZREM', base .. 'ss', session)
    end
  end
  for arg = 4, #ARGV do
    local session = ARGV[arg]
    if call('HGET', base .. 's:' .. session, 'alive') ~= '1' and not call('ZSCORE', base .. 'ending', session) then
      strays[#strays + 1] = session
    end
  end
  return strays
end

return run(verbs)
