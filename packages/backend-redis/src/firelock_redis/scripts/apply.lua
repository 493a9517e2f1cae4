-- Guarded changes of jobs, as functions. Behind jobs.lua, in front of exchange.lua.

-- What became of a change: applied, applied with children to release, a repeat, refused, no such job.
local APPLIED, RELEASING, ALREADY, REFUSED, MISSING = '0', '1', '2', '3', '4'

-- Plain ends: the task returned. Each is five arguments less two: id, the record's first line as it was claimed,
-- the instant, and the whole new record. Whoever has the first line unchanged holds the job, and nobody can have
-- changed what is behind it. Return the results, and the numbers of those that need a closer look.
local function end_plainly(first, count, session, queue, minute, results)
  local ids = {}
  for number = 1, count do ids[number] = ARGV[first + 4 * number - 4] end
  local stored = {}
  for from = 1, count, CHUNK do
    local some = call('HMGET', base .. 'jobs', unpack(ids, from, math.min(from + CHUNK - 1, count)))
    for number = 1, #some do stored[from + number - 1] = some[number] end
  end
  local fresh, gone, ended = {}, {}, {}
  local arg, done = first, 0
  for number = 1, count do
    local head = ARGV[arg + 1]
    local text = stored[number]
    if text and sub(text, 1, #head) == head then
      local id = ARGV[arg]
      done = done + 1
      fresh[2 * done - 1] = id
      fresh[2 * done] = ARGV[arg + 3]
      gone[done] = id
      ended[2 * done - 1] = ARGV[arg + 2]
      ended[2 * done] = id
      results[number] = APPLIED
    else
      results[number] = text and '?' or MISSING
    end
    arg = arg + 4
  end
  if done == 0 then return end
  for from = 1, 2 * done, CHUNK do
    call('HSET', base .. 'jobs', unpack(fresh, from, math.min(from + CHUNK - 1, 2 * done)))
  end
  many('ZREM', base .. 'held:' .. session, gone)
  many('ZADD', base .. 'l:S:' .. queue, ended)
  if call('HINCRBY', base .. 'running', queue, -done) == 0 then call('HDEL', base .. 'running', queue) end
  if minute ~= '' then
    many('RPUSH', base .. 'x:' .. minute, gone)
    call('ZADD', base .. 'xs', minute, minute)
  end
end

-- The guards do not hold: tell a repeat from a stranger; the holder's late end takes its tail away.
local function refused(job, session, fence, to)
  if session == '' or job.fence ~= fence then return REFUSED end
  if job.session == '' then return job.state == to and ALREADY or REFUSED end
  if job.state ~= 'P' and job.session == session then clear_tail(job) end
  return REFUSED
end

local function keep_error(job, attempt, body, line)
  job.error = line
  local key = base .. 'e:' .. job.id
  call('RPUSH', key, (attempt ~= '' and attempt or job.attempt) .. '\t' .. body)
  call('LTRIM', key, -20, -1)
end

-- The server's clock stands still while a script runs: it is asked once for a whole batch.
local read_at
local function instant()
  read_at = read_at or int(clock(ARGV[1]))
  return read_at
end

-- The history's line of an operator's change: it says what it ended.
local function taken_away(job, to, at, reason)
  if job.state == 'P' then return step(to, at, reason, job.attempt, job.claimed, job.started, job.server) end
  if job.state == 'C' then
    return '["' .. NAMES[to] .. '",' .. at .. ',' .. null(reason) .. ',null,null,null,null,0,' .. job.due .. ']\n'
  end
  return step(to, at, reason)
end

-- Change one job as the fields say; empty ones leave what is there.
local function change(job, from, session, fence, to, fields)
  local at, entry, reason, retries, crashes, started, server, gives_back, due, expiry, result, absent = unpack(fields)
  if not find(from, job.state, 1, true) or (session ~= '' and (job.session ~= session or job.fence ~= fence)) then
    return refused(job, session, fence, to)
  end
  if session == '' and entry ~= '' then entry = taken_away(job, to, at, reason) end
  leave(job)
  if session ~= '' then
    job.session = ''
  elseif job.state == 'P' then
    put(tails, job.session, job.id)
  end
  if fields[14] ~= '' then keep_error(job, fields[15], fields[14], fields[13]) end
  job.history = job.history .. entry
  job.state, job.changed, job.reason, job.due = to, at, reason, due
  job.result, job.absent = '', ''
  if to == 'S' then job.result, job.absent = result, absent end
  job.ended, job.expires = '', ''
  if FINAL[to] then job.ended, job.expires = at, expiry end
  if retries ~= '' then job.retries = retries end
  if crashes ~= '' then job.crashes = crashes end
  if started ~= '' then job.started = started end
  if server ~= '' then job.server = server end
  if gives_back ~= '' then
    job.attempt = int(job.attempt - 1)
  elseif to == 'E' then
    job.enqueued = instant()
    to_back(job)
  end
  save(job)
  enter(job)
  return announce(job) and RELEASING or APPLIED
end
