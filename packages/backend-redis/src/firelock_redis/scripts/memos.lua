-- Memos of jobs, counts of batches, and streams. Included after library.lua, batches.lua and jobs.lua.
--
--   memo:<job> HASH: kind, blank and name as JSON -> STORED_MEMO; the empty name -> "place bytes", the place of the
--     next name and the total number of bytes
--   o:<job>:<stream> ZSET: chunks as "offset data", by offset
--   os:<job> HASH: stream -> size of its data in bytes

local verbs = {}

local APPLIED, ALREADY, REFUSED, MISSING, TAKEN = '0', '2', '3', '4', '5'

-- Return the job if it is stored and the caller may write to it. If a session is given, it must hold the job with this
-- fence; otherwise, the job must not have succeeded or been deleted. If these conditions are not met, return nil and
-- the result.
local function writable(id, session, fence)
  local text = call('HGET', base .. 'jobs', id)
  if not text then return nil, MISSING end
  local job = read(id, text)
  if session == '' and job.state ~= 'S' and job.state ~= 'D' then return job end
  if session ~= '' and job.state == 'P' and job.session == session and job.fence == fence then return job end
  return nil, REFUSED
end

-- Add a flag to the job.
local function mark(job, flag)
  if is(job, flag) then return end
  job.flag = job.flag .. flag
  save(job)
end

-- Store one memo. ARGV from this position on: an ADDED_MEMO. Return the result, and the memo that is stored now, or an
-- empty string.
local function remember(first)
  local id, name = ARGV[first + ADDED_MEMO.job], ARGV[first + ADDED_MEMO.name]
  local session, fence = ARGV[first + ADDED_MEMO.session], ARGV[first + ADDED_MEMO.fence]
  local replaces, bytes = ARGV[first + ADDED_MEMO.replaces], ARGV[first + ADDED_MEMO.bytes]
  local most, most_bytes = tonumber(ARGV[first + ADDED_MEMO.most]), tonumber(ARGV[first + ADDED_MEMO.most_bytes])
  local is_done, memo = ARGV[first + ADDED_MEMO.is_done], ARGV[first + ADDED_MEMO.memo]
  local key = base .. 'memo:' .. id
  local stands = call('HGET', key, name)
  local job, why = writable(id, session, fence)
  local given = bytes .. ' ' .. is_done .. ' ' .. memo
  local place, before, was_done = match(stands or '', STORED_MEMO.captures(place, bytes, done))
  local is_repeat = stands and sub(stands, #place + 2) == given
  if not job and not (is_repeat and why == REFUSED and session == '') then return why, stands or '' end
  if is_repeat then return ALREADY, stands end
  if was_done == '1' or (stands and replaces == '0') then return TAKEN, stands end
  local following, sum = match(call('HGET', key, '') or '0 0', '^(%d+) (%d+)$')
  sum = sum - (before or 0) + bytes
  if sum > most_bytes or (not stands and call('HLEN', key) > most) then return REFUSED, stands or '' end
  if not stands then
    place, following = following, int(following + 1)
  end
  stands = place .. ' ' .. given
  call('HSET', key, '', following .. ' ' .. int(sum), name, stands)
  mark(job, 'r')
  if is_done == '1' and job.state == 'W' and job.waits == name and match(name, '^"signal ') then
    leave(job)
    local now = int(clock())
    resume(job, name, now, now)
    save(job)
    enter(job)
  end
  flush()
  return APPLIED, stands
end

-- Store each memo, unless a complete memo is already stored under its name. Return for each memo the result, and the
-- memo that is stored under its name now, or an empty string.
function verbs.remember()
  despite_full_memory()
  local reply = {}
  for first = 3, #ARGV, ADDED_MEMO.width do
    reply[#reply + 1], reply[#reply + 2] = remember(first)
  end
  return reply
end

-- Return the names and values of all memos of the job; nil if the job is unknown, or the session does not hold it with
-- this fence.
function verbs.recall(id, session, fence)
  local text = call('HGET', base .. 'jobs', id)
  local job = text and read(id, text)
  if not job or (session ~= '' and (job.state ~= 'P' or job.session ~= session or job.fence ~= fence)) then return false end
  return call('HGETALL', base .. 'memo:' .. id)
end

-- Return a BATCH_REPLY for each batch, nil if the batch does not exist. ARGV from 3: the batches.
function verbs.batch_counts()
  local reply = {}
  for arg = 3, #ARGV do
    local id = ARGV[arg]
    local row, text = batches().row_of(id), call('HGET', base .. 'jobs', id)
    reply[arg - 2] = false
    if row and text then
      local batch = read(id, text)
      reply[arg - 2] = {
        [BATCH_REPLY.total] = row.total, [BATCH_REPLY.active] = row.active, [BATCH_REPLY.waiting] = row.waiting,
        [BATCH_REPLY.succeeded] = row.succeeded, [BATCH_REPLY.failed] = row.failed, [BATCH_REPLY.deleted] = row.deleted,
        [BATCH_REPLY.batches] = row.batches,
        [BATCH_REPLY.held] = batch.state == 'W' and batch.due ~= '' and '1' or '',
        [BATCH_REPLY.unopened] = row.unopened, [BATCH_REPLY.cancelled] = row.cancelled,
        [BATCH_REPLY.stopping] = row.stopping,
      }
    end
  end
  return reply
end

-- ---- streams -------------------------------------------------------------------------------------------------------

-- Append chunks. ARGV from 6: an ADDED_CHUNK for each chunk. Return the size of the largest of these streams in bytes;
-- nil if the session does not hold the job with this fence.
function verbs.append(id, session, fence)
  local job = writable(id, session, fence)
  if not job then return false end
  local largest = 0
  for first = 6, #ARGV, ADDED_CHUNK.width do
    local stream, offset = ARGV[first + ADDED_CHUNK.stream], ARGV[first + ADDED_CHUNK.offset]
    local bytes, data = ARGV[first + ADDED_CHUNK.bytes], ARGV[first + ADDED_CHUNK.data]
    local key, sum = base .. 'o:' .. id .. ':' .. stream, nil
    if call('ZCOUNT', key, offset, offset) == 0 then
      call('ZADD', key, offset, offset .. ' ' .. data)
      sum = call('HINCRBY', base .. 'os:' .. id, stream, bytes)
    else
      sum = tonumber(call('HGET', base .. 'os:' .. id, stream))
    end
    largest = math.max(largest, sum)
  end
  if largest > 0 then
    mark(job, 's')
    flush()
  end
  return largest
end

-- Return up to `limit` chunks of a stream after an offset, in order, each as "offset data".
function verbs.chunks(id, stream, after, limit)
  return call('ZRANGEBYSCORE', base .. 'o:' .. id .. ':' .. stream, '(' .. after, '+inf', 'LIMIT', 0, limit)
end

return run(verbs)
