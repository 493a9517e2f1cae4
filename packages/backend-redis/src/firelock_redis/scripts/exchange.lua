-- `apply`, then `claim`, or one of them. Behind library.lua, batches.lua, jobs.lua, unique.lua, limits.lua and suspensions.lua.
--
-- KEYS  1 base; derived: those of jobs.lua, s:<session> paused served due:recurring
-- ARGV  2 session that claims, 3 now of the caller, 4 limit, -1 for no claim,
--       5 number of queues, -1 for all of them, then their names; then groups of changes, each:
--         from (letters of states), session or nothing, to (a letter), minute of expiry or -, queue, number of jobs
--         from is nothing: number is one of lanes in which jobs with limits end here; for each queue, lane, number, and ids;
--         from is -: number is one of tasks that the claim leaves out; for each how the payloads of its jobs begin;
--         plain where from is P, to is S and the minute is a number or nothing; for each job id, first line, at, new record; where
--         there are members of batches, they come first, and behind the P stand a batch and the number of its members, and so on;
--         else for each job id, fence, and fifteen fields, nothing where they do not matter: at, line of history,
--         reason, retries, crashes, started_at, server, 1 where the attempt is given back, due_at, expires_at,
--         result, absence, error, body of the failed attempt, its number;
--         where the minute is = and not -, behind them what suspensions.lua reads
-- Reply results, one character a change: 0 applied, 1 releasing, 2 already, 3 refused, 4 missing, 5 taken, ? look closer, and
--       then nothing was claimed;
--       the next due instant or nothing; 1 where the session is lost, else the instant at which lanes are worth another
--       look and how many micros that is from now, or nothing; then id, record, payload of each claimed job

-- ---- changes -------------------------------------------------------------------------------------------------------

local lane_of_end = {}  -- by id, of jobs with limits that end here

-- So many running members of the batch have succeeded, and nothing waits for them. Return whether `release` has to look at it, which
-- it has where no other is active: while one is, none of these ends says anything new of the batch.
local function count_members(batch, number)
  local key = base .. 'b:' .. batch
  call('HINCRBY', key, 'succeeded', number)
  local active = call('HINCRBY', key, 'active', -number)
  if active > 0 then return false end
  if active < 0 and call('HEXISTS', key, 'total') == 0 then  -- somebody took it away: this is all that there is of it
    call('DEL', key)
    return false
  end
  call('ZADD', base .. 'changed', 'NX', call('INCR', base .. 'ends'), batch)
  return true
end

-- Count those of these results that ended a member, by runs of one batch: " batch number" of each.
local function count_ends(runs, results)
  local first = 1
  for batch, number in string.gmatch(runs, ' (%S+) (%d+)') do
    local behind, done = first + number, 0
    for place = first, behind - 1 do
      if results[place] == APPLIED then done = done + 1 end
    end
    if done > 0 and count_members(batch, done) then
      for place = first, behind - 1 do results[place] = results[place] == APPLIED and RELEASING or results[place] end
    end
    first = behind
  end
end

-- Plain ends: the task returned. Each is four arguments: id, the record's first line as it was claimed,
-- the instant, and the whole new record. Whoever has the first line unchanged holds the job, and nobody can have
-- changed what is behind it. Return the results, and the numbers of those that need a closer look.
local function end_plainly(first, count, session, queue, minute, runs, results)
  local ids, lanes = {}, {}
  for number = 1, count do ids[number] = ARGV[first + 4 * number - 4] end
  local stored, fresh, gone, ended = records(ids), {}, {}, {}
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
      if lane_of_end[id] then put(lanes, lane_of_end[id], id) end
    else
      results[number] = text and '?' or MISSING
    end
    arg = arg + 4
  end
  if done == 0 then return end
  many('HSET', base .. 'jobs', fresh)
  many('ZREM', base .. 'held:' .. session, gone)
  many('ZADD', base .. 'l:S:' .. queue, ended)
  count_running(queue, -done)
  if minute ~= '' then expire(minute, gone) end
  if runs ~= '' then count_ends(runs, results) end
  -- No list needs those any more; one that keeps them is no worse for it, as the jobs are asked where it refuses.
  for lane, some in pairs(lanes) do
    for key in string.gmatch(lane, '[^\n]+') do many('SREM', base .. 'slots:' .. key, some) end
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
  read_at = read_at or int(clock())
  return read_at
end

-- Unique keys as they are now: what the batch has changed so far is written.
local function keys_at_hand()
  flush()
  return unique_keys(tonumber(instant()), function(id)
    local text = call('HGET', base .. 'jobs', id)
    return text and read(id, text)
  end)
end

-- Change one job as the fields say; empty ones leave what is there.
local function change(job, from, session, fence, to, fields, more)
  local at, entry, reason, retries, crashes, started, server, gives_back, due, expiry, result, absent = unpack(fields)
  local there = more and to == 'W' and is_there(job, more)
  if there then to = 'E' end
  if not find(from, job.state, 1, true) or (session ~= '' and (job.session ~= session or job.fence ~= fence)) then
    return refused(job, session, fence, to)
  end
  if is(job, 'b') then return change_batch(job, session, to, at, reason, due) end
  local runs_again = session == '' and (to == 'E' or (FINAL[job.state] and not FINAL[to]))
  if runs_again and not may_run_again(job) then return REFUSED end
  if more and more.forgets ~= '' and not remembers(job, more.forgets) then return REFUSED end
  local lives_again = session == '' and job.asks ~= '' and FINAL[job.state] and not FINAL[to] and keys_at_hand()
  if lives_again and lives_again.is_taken_by_other(job) then return TAKEN end
  if runs_again and job.flag ~= '' then batches().calm(batches().ties_of(job).batch) end
  if more and more.forgets ~= '' then forget_from(job, more.forgets) end
  if session == '' and entry ~= '' then entry = taken_away(job, to, at, reason) end
  if there then
    reason, due = there, ''
    entry = step('E', at, there, job.attempt, job.claimed, started, server)
  end
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
  if gives_back ~= '' then job.attempt = int(job.attempt - 1) end
  if to == 'E' and (gives_back == '' or there) then
    job.enqueued = instant()
    to_back(job)
  end
  if more and to ~= 'E' then wait_for(job, more) end
  save(job)
  enter(job)
  if lives_again then
    lives_again.take_again(job)
    lives_again.store()
  end
  return announce(job) and RELEASING or APPLIED
end

-- ---- claims --------------------------------------------------------------------------------------------------------

-- How many to take from each of the queues, all together at most the limit: in order as many as there are, in turn alike. Where
-- tasks are left out, `near` gets by number of the queue the jobs that may be taken.
local function shares(names, limit, in_turn, near)
  local sizes, taking, left = {}, {}, limit
  for number, queue in ipairs(names) do
    local size = call('ZCARD', base .. 'r:' .. queue)
    if size == 0 then
      call('SREM', base .. 'work', queue)
    elseif call('SISMEMBER', base .. 'paused', queue) == 1 then
      size = 0
    elseif leaving_out then
      near[number] = leaving_out.first_of('r:' .. queue, limit, leaving_out.share(#names))
      size = #near[number]
    end
    sizes[number], taking[number] = size, 0
  end
  while left > 0 do
    local open = {}
    for number, size in ipairs(sizes) do
      if size > taking[number] then open[#open + 1] = number end
    end
    if #open == 0 then break end
    local each = in_turn and math.max(1, math.floor(left / #open)) or left
    for _, number in ipairs(open) do
      local more = math.min(each, sizes[number] - taking[number], left)
      taking[number] = taking[number] + more
      left = left - more
    end
  end
  return taking
end

-- Every queue of these sets, beginning behind the one that was served last.
local function queues_in_turn(set, other)
  local names, served = call('SMEMBERS', base .. set), call('GET', base .. 'served') or ''
  if other then
    local known = {}
    for _, name in ipairs(names) do known[name] = true end
    for _, name in ipairs(call('SMEMBERS', base .. other)) do
      if not known[name] then names[#names + 1] = name end
    end
  end
  table.sort(names, function(one, other)
    if (one > served) ~= (other > served) then return one > served end
    return one < other
  end)
  return names
end

local function popped(names, taking, in_turn, near)
  local lines = {}
  for number, queue in ipairs(names) do
    local line = {}
    if taking[number] > 0 then
      local key = base .. 'r:' .. queue
      if near[number] then
        for place = 1, taking[number] do line[place] = near[number][place] end
        many('ZREM', key, line)
      else
        local members = call('ZPOPMIN', key, taking[number])
        for pair = 1, #members, 2 do line[#line + 1] = members[pair] end
      end
      if call('EXISTS', key) == 0 then call('SREM', base .. 'work', queue) end
      many('ZREM', base .. 'l:E:' .. queue, line)
      call('HINCRBY', base .. 'running', queue, #line)
    end
    lines[number] = line
  end
  if #names == 1 then return lines[1], lines end
  return in_order(names, lines, in_turn), lines
end

-- Jobs whose record or payload is gone or garbage are in nobody's way any more: broken SET holds them, for `doctor`.
local function set_aside(ids, names, lines)
  local is_broken = {}
  for _, id in ipairs(ids) do is_broken[id] = true end
  for number, line in ipairs(lines) do
    for _, id in ipairs(line) do
      if is_broken[id] then count_running(names[number], -1) end
    end
  end
  many('SADD', base .. 'broken', ids)
end

-- Of most jobs it is the first: a number takes 0.3 µs to be written.
local function following(number)
  return number == '0' and '1' or number + 1
end

-- The record of a claimed job without its last line; nil where the stored one is garbage.
local function claimed(text, session)
  local flag, attempt, fence, place, line, last = match(text, '^E(%D*)(%d+) (%d+) ()[^\n]*()\n.*()\n')
  return flag and 'P' .. flag .. following(attempt) .. ' ' .. following(fence) .. ' ' .. sub(text, place, line - 1)
    .. session .. sub(text, line, last)
end

local freed_lanes = {}  -- lists by queue, in which jobs with limits end here

-- Take up to `limit` jobs for the session; lay id, record without its last line and payload of each into `reply`. Return how
-- many were taken.
local function claim(reply, names, limit, session, server, now)
  local in_turn, ids, lines = not names, nil, nil
  names = names or queues_in_turn('work')
  local limited = call('EXISTS', base .. (#names == 1 and not in_turn and 'ring:' .. names[1] or 'laned')) == 1 and limits()
  if limited then
    if in_turn then names = queues_in_turn('work', 'laned') end
    ids, lines = limited.claim(names, limit, in_turn, freed_lanes, instant())
    local at = limited.finish()
    if at then reply[3] = int(at) .. ' ' .. int(at - instant()) end
  else
    local near = {}
    ids, lines = popped(names, shares(names, limit, in_turn, near), in_turn, near)
  end
  local count = #ids
  if count == 0 then return 0 end
  local fresh, held, broken = {}, {}, {}
  local fields = now .. '\t' .. now .. '\t\t\t\t\t' .. server .. '\t\t\t'
  local size = #reply
  for first = 1, count, CHUNK / 2 do
    local upto = math.min(first + CHUNK / 2 - 1, count)
    local texts = call('HMGET', base .. 'jobs', unpack(ids, first, upto))
    local payloads = call('HMGET', base .. 'payloads', unpack(ids, first, upto))
    for number, text in ipairs(texts) do
      local id, payload = ids[first + number - 1], payloads[number]
      local record = text and claimed(text, session)
      if record and payload then
        local two = #fresh
        fresh[two + 1] = id
        fresh[two + 2] = record .. fields
        held[two + 1] = now
        held[two + 2] = id
        reply[size + 1] = id
        reply[size + 2] = record
        reply[size + 3] = payload
        size = size + 3
      else
        broken[#broken + 1] = id
      end
    end
    if #fresh > 0 then
      call('HSET', base .. 'jobs', unpack(fresh))
      many('ZADD', base .. 'held:' .. session, held)
    end
    fresh, held = {}, {}
  end
  if #broken > 0 then set_aside(broken, names, lines) end
  return count
end

-- ---- one after the other -------------------------------------------------------------------------------------------

despite_full_memory()

local limit, named = tonumber(ARGV[4]), tonumber(ARGV[5])
local queues = named >= 0 and {} or nil
for number = 1, named do queues[number] = ARGV[5 + number] end
local arg = 6 + math.max(named, 0)

local results, needs_a_look = {}, false
while arg < #ARGV do
  local from, session, to, minute, queue = unpack(ARGV, arg, arg + 4)
  local count = tonumber(ARGV[arg + 5])
  arg = arg + 6
  if from == '' then
    for _ = 1, count do
      local name, lane, number = ARGV[arg], ARGV[arg + 1], tonumber(ARGV[arg + 2])
      put(freed_lanes, name, lane)
      freed[lane] = true
      for place = arg + 3, arg + 2 + number do lane_of_end[ARGV[place]] = lane end
      arg = arg + 3 + number
    end
  elseif from == '-' then
    leave_out(arg, count)
    arg = arg + count
  elseif minute ~= '-' and minute ~= '=' then
    local some = {}
    end_plainly(arg, count, session, queue, minute, sub(from, 2), some)
    for number = 1, count do
      results[#results + 1] = some[number]
      if some[number] == '?' then needs_a_look = true end
    end
    arg = arg + 4 * count
  else
    local ids, arguments, members = {}, {}, {}
    for number = 1, count do
      ids[number], arguments[number] = ARGV[arg], arg
      arg = arg + 17
      if minute == '=' then arg = behind_more(arg) end
    end
    local stored = records(ids)
    for number = 1, count do
      local text, first = stored[number], arguments[number]
      local result = MISSING
      if text then
        local fields = {}
        for field = 1, 15 do fields[field] = ARGV[first + 1 + field] end
        -- One that waits for others may change their records: those are read behind that.
        local job = read(ids[number], minute == '=' and call('HGET', base .. 'jobs', ids[number]) or text)
        result = change(job, from, session, ARGV[first + 1], to, fields, minute == '=' and read_more(first + 17))
        if result == APPLIED and job.was then members[#results + 1] = job end
        if minute == '=' then flush() end
      end
      results[#results + 1] = result
    end
    flush()
    for place, job in pairs(members) do
      if batches().is_noted(batches().ties_of(job).batch) then results[place] = RELEASING end
    end
  end
end

local reply = { table.concat(results), '', '' }
if limit < 0 or needs_a_look then
  tell_freed()
  return reply
end

local has_room = false
local alive = call('HMGET', base .. 's:' .. ARGV[2], 'alive', 'token')
if alive[1] ~= '1' then
  reply[3] = '1'
elseif limit > 0 then
  has_room = claim(reply, queues, limit, ARGV[2], alive[2], ARGV[3]) < limit
end
if next(freed) then
  tell_freed(has_room and function(queue)
    if not queues then return true end
    for _, name in ipairs(queues) do
      if name == queue then return true end
    end
  end)
end
reply[2] = next_due()
return reply
