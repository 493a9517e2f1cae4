-- `apply`, then `claim`, or only one of them. Included after library.lua, batches.lua, jobs.lua, unique.lua,
-- limits.lua and suspensions.lua.
--
-- KEYS  1 base; derived: those of jobs.lua, s:<session> paused served due:recurring
-- ARGV  from 2 an EXCHANGE_CLAIM and the names of its queues; then groups of changes, each a GROUP followed by its
--       items
-- Reply an EXCHANGE_REPLY, with one character per change: 0 applied, 1 release needed, 2 already, 3 refused,
--       4 missing, 5 taken, ? must be sent field by field; then a CLAIMED for each claimed job

-- ---- changes -------------------------------------------------------------------------------------------------------

local lane_of_end = {}  -- the lanes of the jobs with limits that end in this script, by job id

-- Count this number of running members of the batch as succeeded; no job may be waiting for them. Return whether
-- `release` must check the batch, which is true if no other member is active. While another member is active, these
-- successes do not change the state of the batch.
local function count_members(batch, number)
  local key = base .. 'b:' .. batch
  call('HINCRBY', key, 'succeeded', number)
  local active = call('HINCRBY', key, 'active', -number)
  if active > 0 then return false end
  if active < 0 and call('HEXISTS', key, 'total') == 0 then  -- the batch was deleted: delete the two new fields
    call('DEL', key)
    return false
  end
  call('ZADD', base .. 'changed', 'NX', call('INCR', base .. 'ends'), batch)
  return true
end

-- Count the members among these ended jobs. `batch_sizes` contains " batch number" for each batch.
local function count_ends(batch_sizes, results)
  local first = 1
  for batch, number in string.gmatch(batch_sizes, ' (%S+) (%d+)') do
    local next_first, done = first + number, 0
    for place = first, next_first - 1 do
      if results[place] == APPLIED then done = done + 1 end
    end
    if done > 0 and count_members(batch, done) then
      for place = first, next_first - 1 do
        if results[place] == APPLIED then results[place] = RELEASE_NEEDED end
      end
    end
    first = next_first
  end
end

-- Apply plain outcomes, each of which is a PLAIN_END: the tasks of these jobs have returned. If the first line of a
-- record is unchanged, the session still holds the job, and nothing after that line has changed. Write the results to
-- `results`; ? means that the change must be sent field by field.
local function end_plainly(first, count, session, queue, minute, batch_sizes, results)
  local ids, lanes = {}, {}
  for number = 1, count do ids[number] = ARGV[first + PLAIN_END.width * (number - 1) + PLAIN_END.id] end
  local stored, fresh, gone, ended = records(ids), {}, {}, {}
  local arg, done = first, 0
  for number = 1, count do
    local head = ARGV[arg + PLAIN_END.first_line]
    local text = stored[number]
    if text and sub(text, 1, #head) == head then
      local id = ARGV[arg + PLAIN_END.id]
      done = done + 1
      fresh[2 * done - 1] = id
      fresh[2 * done] = ARGV[arg + PLAIN_END.record]
      gone[done] = id
      ended[2 * done - 1] = ARGV[arg + PLAIN_END.at]
      ended[2 * done] = id
      results[number] = APPLIED
      if lane_of_end[id] then put(lanes, lane_of_end[id], id) end
    else
      results[number] = text and '?' or MISSING
    end
    arg = arg + PLAIN_END.width
  end
  if done == 0 then return end
  many('HSET', base .. 'jobs', fresh)
  many('ZREM', base .. 'held:' .. session, gone)
  many('ZADD', base .. 'l:S:' .. queue, ended)
  count_running(queue, -done)
  if minute ~= '' then expire(minute, gone) end
  if batch_sizes ~= '' then count_ends(batch_sizes, results) end
  -- These jobs no longer hold their keys. A key's list may still contain them, because a start is refused only after
  -- the jobs in a full list were read.
  for lane, some in pairs(lanes) do
    for key in string.gmatch(lane, '[^\n]+') do many('SREM', base .. 'slots:' .. key, some) end
  end
end

-- Return the result of a change whose conditions are not met: ALREADY for a repeated change, otherwise REFUSED. If the
-- session that has the job as a tail sends a late result, the tail is removed.
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

-- The server's clock does not advance while a script runs, so it is read once for all changes.
local read_at
local function instant()
  read_at = read_at or int(clock())
  return read_at
end

-- Write all pending changes, and return the current unique keys.
local function keys_at_hand()
  flush()
  return unique_keys(tonumber(instant()), function(id)
    local text = call('HGET', base .. 'jobs', id)
    return text and read(id, text)
  end)
end

-- Apply the CHANGE in ARGV, from this position on, to one job; empty fields keep the stored values. Return the result.
local function change(job, from, session, to, first, more)
  local fence, at, entry = ARGV[first + CHANGE.fence], ARGV[first + CHANGE.at], ARGV[first + CHANGE.entry]
  local reason, retries, crashes = ARGV[first + CHANGE.reason], ARGV[first + CHANGE.retries], ARGV[first + CHANGE.crashes]
  local started, server = ARGV[first + CHANGE.started], ARGV[first + CHANGE.server]
  local gives_back, due = ARGV[first + CHANGE.gives_back], ARGV[first + CHANGE.due]
  local there = more and to == 'W' and is_there(job, more)
  if there then to = 'E' end
  if not find(from, job.state, 1, true) or (session ~= '' and (job.session ~= session or job.fence ~= fence)) then
    return refused(job, session, fence, to)
  end
  if is(job, 'b') then return change_batch(job, session, to, at, reason, due) end
  local runs_again = session == '' and (to == 'E' or (FINAL[job.state] and not FINAL[to]))
  if runs_again and not may_run_again(job) then return REFUSED end
  if more and more.forgets ~= '' and not remembers(job, more.forgets) then return REFUSED end
  local lives_again = session == '' and job.admission ~= '' and FINAL[job.state] and not FINAL[to] and keys_at_hand()
  if lives_again and lives_again.is_taken_by_other(job) then return TAKEN end
  if runs_again and job.flag ~= '' then batches().calm(batches().relations_of(job).batch) end
  if more and more.forgets ~= '' then forget_from(job, more.forgets) end
  if session == '' and entry ~= '' then entry = taken_away(job, to, at, reason) end
  if there then
    reason, due = there, ''
    entry = entry_line('E', at, there, job.attempt, job.claimed, started, server)
  end
  leave(job)
  if session ~= '' then
    job.session = ''
  elseif job.state == 'P' then
    put(tails, job.session, job.id)
  end
  if ARGV[first + CHANGE.failure] ~= '' then
    keep_error(job, ARGV[first + CHANGE.attempt], ARGV[first + CHANGE.failure], ARGV[first + CHANGE.error])
  end
  job.history = job.history .. entry
  job.state, job.changed, job.reason, job.due = to, at, reason, due
  job.result, job.absent = '', ''
  if to == 'S' then job.result, job.absent = ARGV[first + CHANGE.result], ARGV[first + CHANGE.absent] end
  job.ended, job.expires = '', ''
  if FINAL[to] then job.ended, job.expires = at, ARGV[first + CHANGE.expires] end
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
  return announce(job) and RELEASE_NEEDED or APPLIED
end

-- ---- claims --------------------------------------------------------------------------------------------------------

-- Return the number of jobs to take from each queue; their total is at most the limit. If the queues are in order, take
-- as many jobs as each queue has; if they take turns, take an equal share from each. If the claim skips tasks, add the
-- jobs that may be taken to `near`, by the queue's position in `names`.
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

-- Return every queue of these sets, starting after the last served queue.
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

-- Set aside jobs whose record or payload is missing or unreadable, so that they do not block other jobs. The SET broken
-- contains their ids for `doctor`.
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

-- Return the number plus one as a string. Most numbers are 0; for these, the function saves the 0.3 µs that it takes to
-- format a number.
local function following(number)
  return number == '0' and '1' or number + 1
end

-- Return the record of a claimed job without its last line, which the claim writes itself; nil if the stored record is
-- unreadable. Hot path: only the parts of RECORD that a claim changes are replaced, and everything between them is
-- copied.
local function claimed(text, session)
  local flag, attempt, fence, place, line, last = match(text, '^E(%D*)(%d+) (%d+) ()[^\n]*()\n.*()\n')
  return flag and 'P' .. flag .. following(attempt) .. ' ' .. following(fence) .. ' ' .. sub(text, place, line - 1)
    .. session .. sub(text, line, last)
end

local freed_lanes = {}  -- the lanes whose jobs end in this script, by queue

-- Claim up to `limit` jobs for the session, and append a CLAIMED for each to `reply`. Return their number.
local function claim(reply, names, limit, session, server, now)
  local in_turn, ids, lines = not names, nil, nil
  names = names or queues_in_turn('work')
  local limited = call('EXISTS', base .. (#names == 1 and not in_turn and 'ring:' .. names[1] or 'laned')) == 1 and limits()
  if limited then
    if in_turn then names = queues_in_turn('work', 'laned') end
    ids, lines = limited.claim(names, limit, in_turn, freed_lanes, instant())
    local at = limited.finish()
    if at then reply[EXCHANGE_REPLY.next_claim] = int(at) .. ' ' .. int(at - instant()) end
  else
    local near = {}
    ids, lines = popped(names, shares(names, limit, in_turn, near), in_turn, near)
  end
  local count = #ids
  if count == 0 then return 0 end
  local fresh, held, broken = {}, {}, {}
  local fields = now .. LAST.between(changed, claimed) .. now .. LAST.between(claimed, server) .. server .. LAST.between(server, absent)
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
        reply[size + CLAIMED.id] = id
        reply[size + CLAIMED.record] = record
        reply[size + CLAIMED.payload] = payload
        size = size + CLAIMED.width
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

-- ---- main part -----------------------------------------------------------------------------------------------------

despite_full_memory()

local claiming, now = ARGV[2 + EXCHANGE_CLAIM.session], ARGV[2 + EXCHANGE_CLAIM.now]
local limit, named = tonumber(ARGV[2 + EXCHANGE_CLAIM.limit]), tonumber(ARGV[2 + EXCHANGE_CLAIM.queues])
local arg, queues = 2 + EXCHANGE_CLAIM.width, named >= 0 and {} or nil
for number = 1, named do
  queues[number] = ARGV[arg]
  arg = arg + 1
end

local results, needs_a_look = {}, false
while arg < #ARGV do
  local kind, count, session = ARGV[arg + GROUP.kind], tonumber(ARGV[arg + GROUP.size]), ARGV[arg + GROUP.session]
  local from, to, queue = ARGV[arg + GROUP.states], ARGV[arg + GROUP.to], ARGV[arg + GROUP.queue]
  local minute, batch_sizes = ARGV[arg + GROUP.expiry], ARGV[arg + GROUP.batches]
  arg = arg + GROUP.width
  if kind == 'lanes' then
    for _ = 1, count do
      local name, lane = ARGV[arg + LANE_ENDS.queue], ARGV[arg + LANE_ENDS.lane]
      local number = tonumber(ARGV[arg + LANE_ENDS.size])
      put(freed_lanes, name, lane)
      freed[lane] = true
      arg = arg + LANE_ENDS.width
      for place = arg, arg + number - 1 do lane_of_end[ARGV[place]] = lane end
      arg = arg + number
    end
  elseif kind == 'left_out' then
    leave_out(arg, count)
    arg = arg + count
  elseif kind == 'ends' then
    local some = {}
    end_plainly(arg, count, session, queue, minute, batch_sizes, some)
    for number = 1, count do
      results[#results + 1] = some[number]
      if some[number] == '?' then needs_a_look = true end
    end
    arg = arg + PLAIN_END.width * count
  else
    local is_further = kind == 'further'
    local ids, arguments, members = {}, {}, {}
    for number = 1, count do
      ids[number], arguments[number] = ARGV[arg + CHANGE.id], arg
      arg = arg + CHANGE.width
      if is_further then arg = after_more(arg) end
    end
    local stored = records(ids)
    for number = 1, count do
      local text, first = stored[number], arguments[number]
      local result = MISSING
      if text then
        -- Read this record again, because an earlier job of this group that waits for this job might have changed it.
        local job = read(ids[number], is_further and call('HGET', base .. 'jobs', ids[number]) or text)
        result = change(job, from, session, to, first, is_further and read_more(first + CHANGE.width))
        if result == APPLIED and job.was then members[#results + 1] = job end
        if is_further then flush() end
      end
      results[#results + 1] = result
    end
    flush()
    for place, job in pairs(members) do
      if batches().is_noted(batches().relations_of(job).batch) then results[place] = RELEASE_NEEDED end
    end
  end
end

local reply = { table.concat(results), '', '' }  -- an EXCHANGE_REPLY
if limit < 0 or needs_a_look then
  notify_freed()
  return reply
end

local has_room = false
local alive, server = unpack(call('HMGET', base .. 's:' .. claiming, 'alive', 'server'))
if alive ~= '1' then
  reply[EXCHANGE_REPLY.next_claim] = '1'
elseif limit > 0 then
  has_room = claim(reply, queues, limit, claiming, server, now) < limit
end
if next(freed) then
  notify_freed(has_room and function(queue)
    if not queues then return true end
    for _, name in ipairs(queues) do
      if name == queue then return true end
    end
  end)
end
reply[EXCHANGE_REPLY.next_due] = next_due()
return reply
