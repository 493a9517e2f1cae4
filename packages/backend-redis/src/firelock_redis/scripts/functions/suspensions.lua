-- Changes of batches, members and jobs with memos. Included after jobs.lua, before exchange.lua.

-- ---- batches -------------------------------------------------------------------------------------------------------

-- The results of a change: applied, applied with children to release, repeated, refused, job not found, and key taken
-- by another job.
local APPLIED, RELEASE_NEEDED, ALREADY, REFUSED, MISSING, TAKEN = '0', '1', '2', '3', '4', '5'

-- Hold the batch until this time, end its hold, or cancel it. Every other change of a batch is refused.
local function change_batch(batch, session, to, at, reason, due)
  local row = batches().row_of(batch.id)
  if session ~= '' or not row then return REFUSED end
  if to == 'W' and row.cancelled == '' then
    if batch.due ~= '' then put(removes, 'due', batch.id) end
    batch.due = due
    if batch.due ~= '' then add('due', batch.due, batch.id) end
    batches().touch(batch.id)
    save(batch)
    return batch.due == '' and RELEASE_NEEDED or APPLIED
  end
  if to ~= 'D' then return REFUSED end
  if row.cancelled ~= '' then return RELEASE_NEEDED end
  cancel(batch, reason, at)
  save(batch)
  enter(batch)
  return RELEASE_NEEDED
end

-- Return whether a person may restart this job, which is not running. They may not if its batch is cancelled, or if a
-- result that the job uses is missing.
local function may_run_again(job)
  if job.flag == '' then return true end
  local relations = batches().relations_of(job)
  if batches().is_cancelled_around(relations.batch) then return false end
  if job.state == 'W' then
    for _, input in ipairs(relations.inputs) do
      local text = call('HGET', base .. 'jobs', input[INPUT.job])
      if not text or sub(text, 1, 1) ~= 'S' then return false end
    end
  end
  return true
end

-- ---- memos and waits -------------------------------------------------------------------------------------------------

-- Return whether the job has this memo.
local function remembers(job, name)
  return call('HEXISTS', base .. 'memo:' .. job.id, name) == 1
end

-- Forget this memo, which must exist, and all memos with a later place. memo:<job> HASH of memos, see memos.lua.
local function forget_from(job, name)
  local key = base .. 'memo:' .. job.id
  local from, last, size = tonumber(match(call('HGET', key, name), '^%d+')), 0, 0
  local all, gone_names = call('HGETALL', key), {}
  for number = 1, #all, 2 do
    local place, bytes = match(all[number + 1], STORED_MEMO.captures(place, bytes))
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

-- Return the FURTHER values of a change, followed by its parents; both are in ARGV, starting at this position.
local function read_more(first)
  local more = {
    waits = ARGV[first + FURTHER.waits], forgets = ARGV[first + FURTHER.forgets],
    elsewhere = tonumber(ARGV[first + FURTHER.elsewhere]), check_at = ARGV[first + FURTHER.check_at],
    gone = ARGV[first + FURTHER.gone], parents = {},
  }
  local last = first + FURTHER.width - 1
  for number = 1, tonumber(ARGV[first + FURTHER.parents]) do more.parents[number] = ARGV[last + number] end
  return more
end

local function after_more(first)
  return first + FURTHER.width + ARGV[first + FURTHER.parents]
end

-- Return the reason, as JSON, why the job need not wait: all these jobs have ended or do not exist, or the signal has
-- arrived. Return nil or false if the job must wait.
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
  return memo and match(memo, STORED_MEMO.captures(done)) == '1' and more.waits
end

-- Make the suspended job wait for these parents or this memo.
local function wait_for(job, more)
  job.waits = more.waits
  local edges = more.elsewhere
  for number, text in ipairs(records(more.parents)) do
    local id = more.parents[number]
    local parent = text and read(id, text)
    if parent and not FINAL[parent.state] then
      edges = edges + call('ZADD', base .. 'pend:' .. id, call('INCR', base .. 'edges'), 'X ' .. job.id)
      call('SADD', base .. 'w:' .. job.id, id)
      if not is(parent, '+') then
        parent.flag = '+' .. parent.flag
        save(parent)
      end
    end
  end
  if edges > 1 then call('SET', base .. 'n:' .. job.id, int(edges)) end
  if more.elsewhere > 0 and (job.due == '' or tonumber(more.check_at) < tonumber(job.due)) then job.due = more.check_at end
end
