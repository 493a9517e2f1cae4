-- The storage of jobs, and the changes of their states. Included after library.lua and batches.lua, and before groups
-- of verbs that change jobs. These functions are not part of library.lua, because each call must create them, which
-- adds 20 µs to a call that takes 25 µs without them.
--
-- A job is a field of two hashes: payloads contains its payload, which is written once, and jobs contains its record,
-- which is written again at each change. PAYLOAD, RECORD and LAST in layout/encoding.py declare their fields; this
-- file writes them in that order.
--
-- A few jobs have flags: + has children, b is a batch, m is a member of a batch, o waits until its batch opens,
-- i uses results of other jobs, c was called by another job, r has memos, f has forgotten all its memos, s has
-- streams.
--
-- Keys of a partition:
--   all ZSET: every job, by creation time
--   l:<state>:<queue> ZSET: the jobs in a state, by time; processing jobs are in held:<session> instead
--   queues SET: every queue that has had a job
--   r:<queue> ZSET: the jobs that can be claimed, by place
--   work SET: the queues with claimable jobs
--   running HASH: the number of processing jobs, by queue
--   due ZSET: scheduled jobs, by due time, and awaiting jobs with a maximum wait, by the time at which it ends
--   x:<minute> LIST: the jobs that expire in that minute
--   xs ZSET: these minutes
--   tails:<session> SET: the tails of a session
--   e:<id> LIST: failed attempts, if the record has a last error
--   t:<tag>, rj:<recurring job> ZSET: jobs, by creation time
--   seq: the number of the last assigned place
-- The keys of continuations are described in children.lua.
--
-- Jobs with limits are not in r: but in lanes, one for each set of keys. The name of a lane consists of its keys,
-- joined by line ends.
--   lane:<queue> <keys> ZSET: the jobs that can be claimed, by place; a line end follows the id of a job that a claim
--     must check separately, see `has_details`
--   ring:<queue> ZSET: the lanes that have jobs, in the order of their turns
--   laned SET: the queues that have a ring
--   turn: the number of the last assigned turn
--   lanes ZSET, in order of name: "key, line end, queue, blank, keys" for each lane and each of its keys, and "key,
--     line end" for each key until it is pruned
-- The other keys of limits are described in limits.lua.

local WHOLE = RECORD.captures(state, flags, attempt, fence, place, queue, session, retries, crashes, enqueued, origin, admission, error, rest)
local FIELDS = LAST.captures(changed, claimed, started, ended, expires, due, server, reason, result, absent, waits)
local NAMES = {
  W = 'awaiting', C = 'scheduled', E = 'enqueued', P = 'processing', S = 'succeeded', F = 'failed', D = 'deleted',
}
local FINAL = { S = true, F = true, D = true }
local ON = { succeeded = 'S', failed = 'F', deleted = 'D', finished = 'X' }
local HISTORY_HEAD, HISTORY_TAIL, HISTORY_BYTES, MINUTE = 50, 49, 16384, 60000000

local function null(text)
  return text == '' and 'null' or text
end

-- Return an entry of the history as a line, in the order of ENTRY. Times are strings of digits; other strings are JSON
-- or empty.
local function entry_line(state, at, reason, attempt, claimed, started, server)
  local line = '["' .. NAMES[state] .. '",' .. at .. ',' .. null(reason)
  if attempt then
    line = line .. ',' .. attempt .. ',' .. null(claimed) .. ',' .. null(started) .. ',' .. null(server)
  end
  return line .. ']\n'
end

local function read(id, text)
  local job = { id = id }
  local rest
  job.state, job.flag, job.attempt, job.fence, job.place, job.queue, job.session, job.retries, job.crashes,
    job.enqueued, job.origin, job.admission, job.error, rest = match(text, WHOLE)
  job.history = match(rest, '^(.*\n)[^\n]*$') or ''
  job.changed, job.claimed, job.started, job.ended, job.expires, job.due, job.server, job.reason, job.result,
    job.absent, job.waits = match(text, FIELDS)
  if job.state == 'S' and job.ended == '' then
    job.ended = job.changed
    job.history = job.history .. entry_line('S', job.changed, '', job.attempt, job.claimed, job.started, job.server)
  end
  if job.flag ~= '' and find(job.flag, 'm', 1, true) then job.was = batches().share(job) end
  return job
end

-- Return whether the job has this flag.
local function is(job, flag)
  return job.flag ~= '' and find(job.flag, flag, 1, true) ~= nil
end

local function written(job)
  return job.state .. job.flag .. job.attempt .. ' ' .. job.fence .. ' ' .. job.place .. ' ' .. job.queue
    .. ' ' .. job.session .. '\n' .. job.retries .. ' ' .. job.crashes .. ' ' .. job.enqueued .. ' ' .. job.origin
    .. job.admission .. '\n' .. job.error .. '\n' .. job.history
    .. table.concat({
      job.changed, job.claimed, job.started, job.ended, job.expires, job.due, job.server, job.reason,
      job.result, job.absent, job.waits ~= '' and job.waits or nil,
    }, '\t')
end

-- Remove the middle of a long history; `elided` in the line that replaces the middle is the number of removed entries.
local function shortened(job)
  local lines = {}
  for line in string.gmatch(job.history, '([^\n]*\n)') do lines[#lines + 1] = line end
  local head = job.origin == '-' and HISTORY_HEAD or HISTORY_HEAD - 1
  if #lines <= head + HISTORY_TAIL + 1 then return end
  local elided, last, between = 0, nil, string.rep(',null', ENTRY.elided - ENTRY.at - 1) .. ','
  for number = head + 1, #lines - HISTORY_TAIL do
    last = lines[number]
    elided = elided + (tonumber(match(last, between .. '(%d+)%]\n$')) or 1)
  end
  local state, at = match(last, '^%["(%a+)",(%d+)')
  local mark = '["' .. state .. '",' .. at .. between .. elided .. ']\n'
  job.history = table.concat(lines, '', 1, head) .. mark
    .. table.concat(lines, '', #lines - HISTORY_TAIL + 1, #lines)
end

-- ---- admission ------------------------------------------------------------------------------------------------

local parsed = {}  -- parsed admissions, by the string in the record

local UNTIL = { started = true, ended = true, succeeded = true, due = true }

local function parse_admission(text)
  local decoded, keys, null = cjson.decode(text), {}, cjson.null
  local uses, unique, before, within = decoded[ADMISSION.uses], decoded[ADMISSION.unique], decoded[ADMISSION.before], decoded[ADMISSION.within]
  local admission = { uses = uses, has_details = before ~= null or within ~= null }
  for number, use in ipairs(uses) do
    assert(type(use[USE.key]) == 'string' and type(use[USE.cost]) == 'number')
    keys[number] = use[USE.key]
    admission.has_details = admission.has_details or use[USE.cost] ~= 1 or use[USE.strict] ~= 0
  end
  admission.lane = table.concat(keys, '\n')
  if unique ~= null then
    local key, kept_until, at_least = unique[UNIQUE.key], unique[UNIQUE.kept_until], unique[UNIQUE.at_least]
    assert(type(key) == 'string' and type(kept_until) == 'string' and type(at_least) == 'number')
    admission.unique, admission.is_unread = unique, not UNTIL[kept_until]
  end
  if before ~= null then admission.before = before end
  if within ~= null then admission.within = within end
  return admission
end

-- Return the admission of a job; it is empty if the string cannot be read. Its fields:
--   lane: the lane of the job, empty if it has none
--   uses: the uses of limits, each a USE
--   has_details: whether a claim must check more than the lane, because the cost is not 1, the job keeps its key between
--     attempts, or the job has a latest start
--   unique: the use of a unique key, see UNIQUE
--   before, within: `start_before` and `start_within` of `Admission`
--   is_unread: whether only a newer release knows how long the unique key is kept
local function admission_of(text)
  local admission = parsed[text]
  if not admission then
    local is_read, found = pcall(parse_admission, text)
    admission = is_read and found or { uses = {}, lane = '', is_unread = true }
    parsed[text] = admission
  end
  return admission
end

-- ---- pending changes ------------------------------------------------------------------------------------------

-- Changes are collected until `flush` writes them. A job must not be saved twice between two flushes.
local saved, counted, at_back, ready, adds, removes, running, buckets, tails, cut, gone, lanes

local function begin_batch()
  saved, at_back, ready, adds, removes, running, buckets, tails, cut, gone, lanes = {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}
  counted = {}
end

begin_batch()

local function add(key, score, id)
  local list = adds[key]
  if not list then
    list = {}
    adds[key] = list
  end
  local count = #list
  list[count + 1] = score
  list[count + 2] = id
end

local function put(lists, key, id)
  local list = lists[key]
  if list then list[#list + 1] = id else lists[key] = { id } end
end

local function save(job)
  if #job.history > HISTORY_BYTES then shortened(job) end
  saved[#saved + 1] = job
  if job.was then counted[#counted + 1] = job end
end

-- Return the optional fields of a job's payload, see OPTIONAL; nil if it has none, or if they cannot be read. Also
-- return the number of bytes that were read for them.
local function optional_fields(id)
  local payload = call('HGET', base .. 'payloads', id) or ''
  local optional = match(payload, PAYLOAD.captures(optional))
  local is_read, fields = pcall(cjson.decode, optional and optional ~= '' and optional or 'null')
  local is_known = is_read and type(fields) == 'table' and type(fields[OPTIONAL.tags]) == 'table'
    and type(fields[OPTIONAL.parents]) == 'table'
  return is_known and fields or nil, #payload
end

-- Remove the job from the lists of the parents for which it waits: the parents of its suspension if there are any,
-- otherwise the parents in its dependencies.
local function forget_edges(job)
  local id = job.id
  if job.waits ~= '' then
    for _, parent in ipairs(call('SMEMBERS', base .. 'w:' .. id)) do call('ZREM', base .. 'pend:' .. parent, 'X ' .. id) end
    gone[#gone + 1] = base .. 'w:' .. id
    return
  end
  local fields = optional_fields(id)
  for _, edge in ipairs(fields and fields[OPTIONAL.parents] or {}) do
    call('ZREM', base .. 'pend:' .. edge[EDGE.parent_id], ON[edge[EDGE.on]] .. ' ' .. id)
  end
end

-- Remove the job from the releasing list, so that its previous final state no longer affects its children.
local function withdraw(id)
  call('ZREM', base .. 'releasing', id)
  call('HDEL', base .. 'checked', id)
end

-- Return the list of claimable jobs to which a job belongs, and the name of the job in this list.
local function standing(job)
  local admission = job.admission ~= '' and admission_of(job.admission)
  if not admission or admission.lane == '' then return 'r:' .. job.queue, job.id end
  local name = 'lane:' .. job.queue .. ' ' .. admission.lane
  lanes[name] = job.queue
  return name, admission.has_details and job.id .. '\n' or job.id
end

local freed = {}  -- lanes of jobs that no longer hold their keys, or might no longer hold them

local function leave(job)
  local state, queue, id = job.state, job.queue, job.id
  if state == 'P' then
    put(removes, 'held:' .. job.session, id)
    running[queue] = (running[queue] or 0) - 1
    if job.admission ~= '' then freed[admission_of(job.admission).lane] = true end
    return
  end
  put(removes, 'l:' .. state .. ':' .. queue, id)
  if state == 'E' and job.session == '' then put(removes, standing(job)) end
  if job.due ~= '' then put(removes, 'due', id) end
  if state == 'W' then
    local batch = is(job, 'b') and batches().row_of(id)
    if not batch or batch.unopened ~= '' then  -- an open batch does not wait for parents
      gone[#gone + 1] = base .. 'n:' .. id
      forget_edges(job)
    end
    job.flag = string.gsub(job.flag, 'o', '')
  end
  job.waits = ''
  if FINAL[state] and is(job, '+') then withdraw(id) end
end

local function expires(at, id)
  if at ~= '' then put(buckets, format('%d', at / MINUTE), id) end
end

local function enter(job)
  local state, queue, id = job.state, job.queue, job.id
  add('l:' .. state .. ':' .. queue, job.changed, id)
  if state == 'E' and job.session == '' then ready[#ready + 1] = job end
  if job.due ~= '' then add('due', job.due, id) end
  if is(job, 'i') then batches().follow_inputs(job) end
  if FINAL[state] then
    expires(job.expires, id)
    if job.admission ~= '' then freed[admission_of(job.admission).lane] = true end
  end
end

-- Give the job a place after all other jobs of its queue; the jobs of one flush get their places in order of id.
local function to_back(job)
  at_back[#at_back + 1] = job
end

-- List the jobs that expire in that minute.
local function expire(minute, ids)
  many('RPUSH', base .. 'x:' .. minute, ids)
  call('ZADD', base .. 'xs', minute, minute)
end

-- Add this number to the queue's number of processing jobs.
local function count_running(queue, number)
  if call('HINCRBY', base .. 'running', queue, number) == 0 then call('HDEL', base .. 'running', queue) end
end

local function add_all(key, members)
  local queue = sub(key, 1, 2) == 'r:' and sub(key, 3)
  local is_first = queue and call('EXISTS', base .. key) == 0
  local before = key == 'due' and first_score('due')
  many('ZADD', base .. key, members)
  if is_first then
    call('SADD', base .. 'work', queue)
    wake(queue)
  end
  if key == 'due' and (not before or tonumber(first_score('due')) < tonumber(before)) then wake('*') end
end

-- Assign places to the jobs that go to the end of their queue. The upper bits of a place contain the priority, the
-- lower bits the order of arrival.
local function number_places()
  if #at_back == 0 then return end
  table.sort(at_back, function(one, other) return one.id < other.id end)
  local last = call('INCRBY', base .. 'seq', #at_back)
  for number, job in ipairs(at_back) do
    job.place = int(math.floor(job.place / 2 ^ 45) * 2 ^ 45 + last - #at_back + number)
  end
end

-- Notify waiting servers if jobs no longer hold keys that have delayed claims. This is not needed for a queue if this
-- script's own claim has requested jobs from it and could have taken more. `is_seen` returns whether a queue meets this
-- condition; it is nil if the script does not claim.
local function notify_freed(is_seen)
  local keys, notified = {}, {}
  if call('EXISTS', base .. 'short') == 0 then freed = {} end
  for lane in pairs(freed) do
    for key in string.gmatch(lane, '[^\n]+') do keys[#keys + 1] = key end
  end
  freed = {}
  for first = 1, #keys, CHUNK do
    local some = { unpack(keys, first, math.min(first + CHUNK - 1, #keys)) }
    for number, queue in ipairs(call('HMGET', base .. 'short', unpack(some))) do
      if queue and not (is_seen and is_seen(queue)) then notified[#notified + 1] = some[number] end
    end
  end
  if #notified == 0 then return end
  many('HDEL', base .. 'short', notified)
  wake('*')
end

-- Add these lanes of the queue, which have jobs, to the ring; new lanes come after all others. Return whether a lane is
-- new.
local function open_lanes(queue, names)
  local turn, turns, added, entries = call('GET', base .. 'turn') or 0, {}, 0, {}
  for number, lane in ipairs(names) do turns[2 * number - 1], turns[2 * number] = turn, lane end
  for first = 1, #turns, CHUNK do
    added = added + call('ZADD', base .. 'ring:' .. queue, 'NX', unpack(turns, first, math.min(first + CHUNK - 1, #turns)))
  end
  if added == 0 then return false end
  for _, lane in ipairs(names) do
    for key in string.gmatch(lane, '[^\n]+') do
      local four = #entries
      entries[four + 1], entries[four + 2] = 0, key .. '\n'
      entries[four + 3], entries[four + 4] = 0, key .. '\n' .. queue .. ' ' .. lane
    end
  end
  many('ZADD', base .. 'lanes', entries)
  call('SADD', base .. 'laned', queue)
  return true
end

-- Remove these lanes of the queue, which have no jobs left, from the ring.
local function close_lanes(queue, closed)
  if #closed == 0 then return end
  local ring, names = base .. 'ring:' .. queue, {}
  for _, lane in ipairs(closed) do
    for key in string.gmatch(lane, '[^\n]+') do names[#names + 1] = key .. '\n' .. queue .. ' ' .. lane end
  end
  many('ZREM', ring, closed)
  many('ZREM', base .. 'lanes', names)
  if call('EXISTS', ring) == 0 then call('SREM', base .. 'laned', queue) end
end

-- Add lanes to the ring or remove them from it, after jobs have entered or left these lanes.
local function follow_lanes()
  local opened, closed = {}, {}
  for name, queue in pairs(lanes) do
    put(call('EXISTS', base .. name) == 1 and opened or closed, queue, sub(name, #queue + 7))
  end
  for queue, some in pairs(closed) do close_lanes(queue, some) end
  for queue, some in pairs(opened) do
    if open_lanes(queue, some) then wake(queue) end
  end
end

local function save_all()
  local texts = {}
  for number, job in ipairs(saved) do
    texts[2 * number - 1], texts[2 * number] = job.id, written(job)
  end
  many('HSET', base .. 'jobs', texts)
end

local function flush()
  number_places()
  save_all()
  for _, job in ipairs(ready) do
    local name, member = standing(job)
    add(name, job.place, member)
  end
  for key, ids in pairs(removes) do many('ZREM', base .. key, ids) end
  for key, members in pairs(adds) do add_all(key, members) end
  if next(lanes) then follow_lanes() end
  for minute, ids in pairs(buckets) do
    expire(minute, ids)
  end
  for session, ids in pairs(tails) do
    many('SADD', base .. 'tails:' .. session, ids)
    wake('taken ' .. session)
  end
  for session, ids in pairs(cut) do many('SREM', base .. 'tails:' .. session, ids) end
  for queue, number in pairs(running) do
    if number ~= 0 then count_running(queue, number) end
  end
  unlink(gone)
  for _, job in ipairs(counted) do batches().count(job) end
  if made_batches then made_batches.store() end
  begin_batch()
end

-- Return the records of jobs, false for unknown jobs.
local function records(ids)
  local found = {}
  for first = 1, #ids, CHUNK do
    local some = call('HMGET', base .. 'jobs', unpack(ids, first, math.min(first + CHUNK - 1, #ids)))
    for number = 1, #some do found[first + number - 1] = some[number] end
  end
  return found
end

-- Return the parsed jobs, false for unknown jobs.
local function read_all(ids)
  local found = records(ids)
  for number, text in ipairs(found) do found[number] = text and read(ids[number], text) end
  return found
end

-- Note the end of a job for which children might wait; return whether any child waits. `release` handles them, in the
-- order in which their parents ended.
local function announce(job)
  if FINAL[job.state] and is(job, '+') and call('EXISTS', base .. 'pend:' .. job.id) == 1 then
    call('ZADD', base .. 'releasing', call('INCR', base .. 'ends'), job.id)
    return true
  end
  return false
end

local function clear_tail(job)
  put(cut, job.session, job.id)
  if job.admission ~= '' then freed[admission_of(job.admission).lane] = true end
  job.session = ''
  if job.state == 'E' then ready[#ready + 1] = job end
  save(job)
end

-- Return a history line for an operator's change, with the attempt that the change has ended or the due time that it
-- has cancelled.
local function taken_away(job, to, at, reason)
  if job.state == 'P' then return entry_line(to, at, reason, job.attempt, job.claimed, job.started, job.server) end
  if job.state == 'C' then
    local between = string.rep(',null', ENTRY.elided - ENTRY.reason - 1)
    return '["' .. NAMES[to] .. '",' .. at .. ',' .. null(reason) .. between .. ',0,' .. job.due .. ']\n'
  end
  return entry_line(to, at, reason)
end

-- Enqueue a job that was waiting and has been removed from its lists. The caller saves it.
local function resume(job, reason, at, now)
  job.state, job.reason, job.changed, job.enqueued, job.due, job.waits = 'E', reason, at, now, '', ''
  job.history = job.history .. entry_line('E', at, reason)
  to_back(job)
end

-- Cancel the batch permanently and end its hold. The caller saves the batch and adds it to its lists.
local function cancel(batch, reason, at)
  put(removes, 'l:' .. batch.state .. ':' .. batch.queue, batch.id)
  if batch.due ~= '' then put(removes, 'due', batch.id) end
  if FINAL[batch.state] and is(batch, '+') then withdraw(batch.id) end
  local row = batches().row_of(batch.id)
  row.cancelled = '1'
  if is(batch, 'o') then row.unopened = '' end
  batches().go_through(batch.id)
  batch.state, batch.reason, batch.changed, batch.due, batch.ended, batch.expires = 'W', reason, at, '', '', ''
  batch.flag = string.gsub(batch.flag, 'o', '')
  batch.history = batch.history .. entry_line('W', at, reason)
end
