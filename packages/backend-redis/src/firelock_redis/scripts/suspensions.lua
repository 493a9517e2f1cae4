-- What becomes of batches, members and jobs that remember something by a change, as functions. Behind jobs.lua, in front of
-- exchange.lua.

-- ---- batches -------------------------------------------------------------------------------------------------------

-- What became of a change: applied, applied with children to release, a repeat, refused, no such job, another has its key.
local APPLIED, RELEASING, ALREADY, REFUSED, MISSING, TAKEN = '0', '1', '2', '3', '4', '5'

-- The batch is held until then, or no more; or it is cancelled. Nothing else is done to it by a change.
local function change_batch(batch, session, to, at, reason, due)
  local row = batches().row_of(batch.id)
  if session ~= '' or not row then return REFUSED end
  if to == 'W' and batch.state == 'W' then
    if batch.due ~= '' then put(removes, 'due', batch.id) end
    if row.cancelled == '' then batch.due = due end
    if batch.due ~= '' then add('due', batch.due, batch.id) end
    batches().touch(batch.id)
    save(batch)
    return batch.due == '' and RELEASING or APPLIED
  end
  if to ~= 'D' then return REFUSED end
  leave(batch)
  cancel(batch, reason, at)
  save(batch)
  enter(batch)
  return RELEASING
end

-- Whether somebody may run the job, which does not run, again: not in a batch that is cancelled, nor without what it takes of others.
-- What failed before in the batches around it stops nothing any more.
local function may_run_again(job)
  if job.flag == '' then return true end
  local ties = batches().ties_of(job)
  local row = ties.batch and batches().row_of(ties.batch)
  if row and row.cancelled ~= '' then return false end
  if job.state == 'W' and job.waits == '' then
    for _, input in ipairs(ties.inputs) do
      local text = call('HGET', base .. 'jobs', input[1])
      if not text or sub(text, 1, 1) ~= 'S' then return false end
    end
  end
  if row then batches().calm(ties.batch) end
  return true
end

-- ---- what a job remembers, and waits for -----------------------------------------------------------------------------

-- memo:<job> HASH of memos, see memos.lua: this one and all with a place from it on are forgotten. Return false where there is none.
local function forget_from(job, name)
  local key = base .. 'memo:' .. job.id
  local stored = call('HGET', key, name)
  if not stored then return false end
  local from, last, size = tonumber(match(stored, '^%d+')), 0, 0
  local all, gone_names = call('HGETALL', key), {}
  for number = 1, #all, 2 do
    local place, bytes = match(all[number + 1], '^(%d+) (%d+) ')
    if all[number] == '' then
      last = match(all[number + 1], '^%d+')
    elseif tonumber(place) >= from then
      gone_names[#gone_names + 1] = all[number]
    else
      size = size + bytes
    end
  end
  many('HDEL', key, gone_names)
  call('HSET', key, '', last .. ' ' .. int(size))
  return true
end

-- More of a change is in ARGV from there on: the memo that the job waits for as JSON or nothing, that to forget from or nothing, how
-- many jobs it waits for that lie in other partitions, when it looks again at those, number of those in this one, their ids.
local function read_more(first)
  local more = { waits = ARGV[first], forgets = ARGV[first + 1], elsewhere = tonumber(ARGV[first + 2]), parents = {} }
  more.look_at = ARGV[first + 3]
  for number = 1, tonumber(ARGV[first + 4]) do more.parents[number] = ARGV[first + 4 + number] end
  return more
end

local function behind_more(first)
  return first + 5 + ARGV[first + 4]
end

-- The suspended job waits for these jobs. Return the state of the last of them where all have ended or are gone.
local function wait_for(job, more)
  local left, state = more.elsewhere, 'S'
  for number, text in ipairs(records(more.parents)) do
    local id = more.parents[number]
    local parent = text and read(id, text)
    if parent and not FINAL[parent.state] then
      left = left + call('ZADD', base .. 'pend:' .. id, call('INCR', base .. 'ties'), 'X ' .. job.id)
      call('SADD', base .. 'w:' .. job.id, id)
      if not is(parent, '+') then
        parent.flag = '+' .. parent.flag
        save(parent)
      end
    elseif parent then
      state = parent.state
    end
  end
  if left == 0 then return state end
  if more.elsewhere > 0 and (job.due == '' or tonumber(more.look_at) < tonumber(job.due)) then job.due = more.look_at end
  if left > 1 then call('SET', base .. 'n:' .. job.id, int(left)) end
end

-- The job, which has become awaiting or scheduled, waits for this; it is enqueued where that is there.
local function suspend(job, more, now)
  job.waits = more.waits
  if job.state ~= 'W' then return end
  local reason
  if #more.parents + more.elsewhere > 0 then
    local state = wait_for(job, more)
    reason = state and '"parent ' .. NAMES[state] .. '"'
  else
    local stored = call('HGET', base .. 'memo:' .. job.id, job.waits)
    reason = stored and match(stored, '^%d+ %d+ 1 ') and job.waits
  end
  if reason then resume(job, reason, job.changed, now) end
end
