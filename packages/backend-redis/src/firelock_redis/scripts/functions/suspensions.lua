-- What becomes of batches, members and jobs that remember something by a change, as functions. Behind jobs.lua, in front of
-- exchange.lua.

-- ---- batches -------------------------------------------------------------------------------------------------------

-- What became of a change: applied, applied with children to release, a repeat, refused, no such job, another has its key.
local APPLIED, RELEASING, ALREADY, REFUSED, MISSING, TAKEN = '0', '1', '2', '3', '4', '5'

-- The batch is held until then, or no more; or it is cancelled. Nothing else is done to it by a change.
local function change_batch(batch, session, to, at, reason, due)
  local row = batches().row_of(batch.id)
  if session ~= '' or not row then return REFUSED end
  if to == 'W' and row.cancelled == '' then
    if batch.due ~= '' then put(removes, 'due', batch.id) end
    batch.due = due
    if batch.due ~= '' then add('due', batch.due, batch.id) end
    batches().touch(batch.id)
    save(batch)
    return batch.due == '' and RELEASING or APPLIED
  end
  if to ~= 'D' then return REFUSED end
  if row.cancelled ~= '' then return RELEASING end
  cancel(batch, reason, at)
  save(batch)
  enter(batch)
  return RELEASING
end

-- Whether somebody may run the job, which does not run, again: not in a batch that is cancelled, nor without what it takes of others.
local function may_run_again(job)
  if job.flag == '' then return true end
  local ties = batches().ties_of(job)
  if batches().is_cancelled_around(ties.batch) then return false end
  if job.state == 'W' then
    for _, input in ipairs(ties.inputs) do
      local text = call('HGET', base .. 'jobs', input[INPUT.job])
      if not text or sub(text, 1, 1) ~= 'S' then return false end
    end
  end
  return true
end

-- ---- what a job remembers, and waits for -----------------------------------------------------------------------------

-- Whether the job remembers that.
local function remembers(job, name)
  return call('HEXISTS', base .. 'memo:' .. job.id, name) == 1
end

-- memo:<job> HASH of memos, see memos.lua: this one, which is there, and all with a place from it on are forgotten.
local function forget_from(job, name)
  local key = base .. 'memo:' .. job.id
  local from, last, size = tonumber(match(call('HGET', key, name), '^%d+')), 0, 0
  local all, gone_names = call('HGETALL', key), {}
  for number = 1, #all, 2 do
    local place, bytes = match(all[number + 1], MEMO.captures(place, bytes))
    if all[number] == '' then
      last = match(all[number + 1], '^%d+')
    elseif tonumber(place) >= from then
      gone_names[#gone_names + 1] = all[number]
    else
      size = size + bytes
    end
  end
  many('HDEL', key, gone_names)
  if 2 * #gone_names + 2 == #all then job.flag = string.gsub(job.flag, 'r', 'f') end
  call('HSET', key, '', last .. ' ' .. int(size))
end

-- More of a change, a FURTHER, is in ARGV from there on; behind it the parents.
local function read_more(first)
  local more = {
    waits = ARGV[first + FURTHER.waits], forgets = ARGV[first + FURTHER.forgets],
    elsewhere = tonumber(ARGV[first + FURTHER.elsewhere]), look_at = ARGV[first + FURTHER.look_at],
    gone = ARGV[first + FURTHER.gone], parents = {},
  }
  local last = first + FURTHER.width - 1
  for number = 1, tonumber(ARGV[first + FURTHER.parents]) do more.parents[number] = ARGV[last + number] end
  return more
end

local function behind_more(first)
  return first + FURTHER.width + ARGV[first + FURTHER.parents]
end

-- Why the job need not wait for this, as JSON: all those jobs have ended or are gone, or the signal is there; nothing where it does.
local function is_there(job, more)
  local count = #more.parents
  if count > 0 and more.elsewhere == 0 then
    local last
    for number, text in ipairs(records(more.parents)) do
      last = text and sub(text, 1, 1)
      if last and not FINAL[last] then break end
      if number == count then return last and '"parent ' .. NAMES[last] .. '"' or more.gone end
    end
  end
  local memo = match(more.waits, '^"signal ') and call('HGET', base .. 'memo:' .. job.id, more.waits)
  return memo and match(memo, MEMO.captures(done)) == '1' and more.waits
end

-- The suspended job waits for this.
local function wait_for(job, more)
  job.waits = more.waits
  local ties = more.elsewhere
  for number, text in ipairs(records(more.parents)) do
    local id = more.parents[number]
    local parent = text and read(id, text)
    if parent and not FINAL[parent.state] then
      ties = ties + call('ZADD', base .. 'pend:' .. id, call('INCR', base .. 'ties'), 'X ' .. job.id)
      call('SADD', base .. 'w:' .. job.id, id)
      if not is(parent, '+') then
        parent.flag = '+' .. parent.flag
        save(parent)
      end
    end
  end
  if ties > 1 then call('SET', base .. 'n:' .. job.id, int(ties)) end
  if more.elsewhere > 0 and (job.due == '' or tonumber(more.look_at) < tonumber(job.due)) then job.due = more.look_at end
end
