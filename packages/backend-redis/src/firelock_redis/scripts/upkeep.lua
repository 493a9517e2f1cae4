-- Background work: due jobs, children of ended parents, batches and their members. Included after library.lua,
-- batches.lua, jobs.lua and children.lua.
--
-- KEYS  those of jobs.lua and children.lua, due:recurring, pausing; publishes on wake

local verbs = {}

-- Return a list. It contains the next due time or an empty string, the version of the paused queues that were copied to
-- this partition (see records.lua), and the due times of up to `limit` due scheduled jobs, oldest first.
function verbs.due(limit)
  local reply = { next_due(), call('GET', base .. 'pausing') or '0' }
  local due = call('ZRANGEBYSCORE', base .. 'due', '-inf', int(clock()), 'WITHSCORES', 'LIMIT', 0, limit)
  for place = 2, #due, 2 do reply[#reply + 1] = due[place] end
  return reply
end

-- Enqueue up to `limit` due jobs, oldest due time first, with the JSON `reason`. If a job is a batch, cancel it
-- instead, with the reason `hold_over`. Return the number of these jobs, and the next due time or an empty string.
function verbs.promote(limit, reason, hold_over)
  despite_full_memory()
  local now = int(clock())
  local ids = call('ZRANGEBYSCORE', base .. 'due', '-inf', now, 'LIMIT', 0, limit)
  for number, job in ipairs(read_all(ids)) do
    if job and job.state == 'W' and is(job, 'b') then
      cancel(job, hold_over, now)
      save(job)
      enter(job)
    elseif job and (job.state == 'C' or job.state == 'W') then
      leave(job)
      resume(job, reason, now, now)
      save(job)
      enter(job)
    else
      put(removes, 'due', ids[number])
    end
  end
  flush()
  return { #ids, next_due() }
end

-- ---- children ------------------------------------------------------------------------------------------------------

local known = {}  -- the current jobs, including changes that are not yet written, by id

local function know(ids)
  local unknown = {}
  for _, id in ipairs(ids) do
    if known[id] == nil then unknown[#unknown + 1] = id end
  end
  for number, job in ipairs(read_all(unknown)) do known[unknown[number]] = job end
end

-- Check one dependency on the parent; return whether it is now decided.
local function check_edge(edge, parent, now)
  local child = known[sub(edge, 3)]
  if not child or child.state ~= 'W' then return true end
  local target = decide(child, sub(edge, 1, 1), parent, now, now, other_edges)
  if target == 'D' or target == 'E' then
    follow(child)
  elseif not target and not child.is_saved then
    child.is_saved = true
    save(child)
  end
  return target ~= nil
end

-- Check up to `wanted` dependencies on the parent, starting where the last check for the same end of the parent
-- stopped. Return their number.
local function check_edges(parent, number, wanted, now)
  local seen, edge = match(call('HGET', base .. 'checked', parent.id) or '', '^(%S+) (%S+)$')
  local key, after = base .. 'pend:' .. parent.id, seen == number and '(' .. edge or '-inf'
  local edges = call('ZRANGEBYSCORE', key, after, '+inf', 'WITHSCORES', 'LIMIT', 0, wanted)
  local ids, done = {}, {}
  for place = 1, #edges, 2 do ids[#ids + 1] = sub(edges[place], 3) end
  know(ids)
  for place = 1, #edges, 2 do
    if check_edge(edges[place], parent, now) then done[#done + 1] = edges[place] end
  end
  many('ZREM', key, done)
  if #ids == wanted then call('HSET', base .. 'checked', parent.id, number .. ' ' .. edges[#edges]) end
  return #ids
end

-- Check up to `limit` dependencies on ended parents, in the order in which the parents ended. Return the number of
-- checked dependencies.
--
-- A parent is removed from the list as soon as each dependency on it was checked once, even if some dependencies are
-- kept because their children continue to wait. If the limit is reached before that, store the end of the parent and
-- the last dependency that was checked: checked HASH parent -> "end dependency".
local function release_children(limit, now)
  local checked, parents = 0, 0
  while checked < limit and parents < limit do
    local first = call('ZRANGE', base .. 'releasing', 0, 0, 'WITHSCORES')
    if not first[1] then break end
    parents = parents + 1
    know({ first[1] })
    local parent, is_done = known[first[1]], true
    local is_final = parent and FINAL[parent.state]
    if is_final then
      local wanted = limit - checked
      local some = check_edges(parent, first[2], wanted, now)
      checked, is_done = checked + some, some < wanted
    end
    if is_done then
      withdraw(first[1])
      if parent and parent.was then batches().count(parent) end
      -- If the parent has expired in the meantime, `prune` has skipped the parent, so list it again.
      if is_final and parent.expires ~= '' and tonumber(parent.expires) <= tonumber(now) then
        expires(parent.expires, first[1])
      end
    end
  end
  flush()
  return checked
end

-- ---- batches -------------------------------------------------------------------------------------------------------

local announced = true  -- whether there might be dependencies to check

-- Return the number with commas between groups of three digits.
local function grouped(number)
  local text = string.gsub(string.reverse(int(number)), '(%d%d%d)', '%1,')
  return (string.gsub(string.reverse(text), '^,', ''))
end

-- Give the batch the state that its counts imply. If the batch has already ended in another state, its history shows
-- that it was open in between.
local function decide_batch(batch, row, now)
  local state = batches().end_of(row, batch.state == 'W' and batch.due ~= '')
  if state == batch.state then return end
  local was_final = FINAL[batch.state]
  leave(batch)
  if was_final then
    batch.state, batch.reason, batch.ended, batch.expires = 'W', rules.reopened, '', ''
    batch.history = batch.history .. entry_line('W', now, rules.reopened)
  end
  batch.changed = now
  if state ~= 'W' then
    if state == 'S' then batch.reason = '' end
    if state == 'F' then
      local reason = row.waiting > 0 and rules.batch_stuck or rules.batch_ended
      batch.reason = format(reason, grouped(row.failed), grouped(row.total), grouped(row.waiting))
    end
    batch.state, batch.due, batch.ended, batch.expires = state, '', now, batches().expiry(row, state, now)
    batch.history = batch.history .. entry_line(state, now, batch.reason)
  end
  save(batch)
  enter(batch)
  announced = announce(batch) or announced
end

-- Delete a member of a batch that is cancelled or stopped by a failure, in the same way as an operator's delete.
local function sweep(member, reason, expires_at, now)
  if FINAL[member.state] then return end
  if is(member, 'b') then
    if batches().row_of(member.id).cancelled ~= '' then return end
    cancel(member, reason, now)
  else
    member.history = member.history .. taken_away(member, 'D', now, reason)
    if member.state == 'P' then put(tails, member.session, member.id) end
    leave(member)
    member.state, member.reason, member.changed, member.ended = 'D', reason, now, now
    member.due, member.expires = '', expires_at
  end
  save(member)
  enter(member)
  announced = announce(member) or announced
end

-- Enqueue a member whose batch has opened, or schedule the member for the due time with which it was created.
local function resume_member(member, reason, now)
  if member.state ~= 'W' or not is(member, 'o') then return end
  if is(member, 'b') then
    put(removes, 'l:W:' .. member.queue, member.id)
    member.flag = string.gsub(member.flag, 'o', '')
    batches().open(member.id)
  else
    local fields = optional_fields(member.id)
    local nominal = fields and fields[OPTIONAL.nominal_at] ~= cjson.null and fields[OPTIONAL.nominal_at] or 0
    leave(member)
    member.state = 'E'
    if nominal > tonumber(now) then
      member.state, member.due = 'C', int(nominal)
    else
      member.enqueued = now
      to_back(member)
    end
  end
  member.reason, member.changed = reason, now
  member.history = member.history .. entry_line(member.state, now, reason)
  save(member)
  enter(member)
end

-- Sweep or resume up to `limit` members of an open batch, starting where the last check stopped; return the number of
-- checked members.
local function move_members(batch, row, limit, now)
  local reason = row.cancelled ~= '' and rules.swept or row.stopping ~= '' and rules.stopped
  if row.walk == '' or (not reason and row.unopened ~= '') then return 0 end
  local ids = call('ZRANGE', base .. 'bm:' .. batch.id, row.walk, int(row.walk + limit - 1))
  local walk = #ids == limit and int(row.walk + limit) or ''
  know(ids)
  for _, id in ipairs(ids) do
    local member = known[id]
    if member and reason then
      sweep(member, reason, batches().expiry(row, 'D', now), now)
    elseif member then
      resume_member(member, rules.batch_opened, now)
    end
  end
  row.walk = walk
  batches().touch(batch.id)
  return #ids
end

-- Determine the state of the batch, and change some of its members accordingly; return the number of checked items.
-- Changes that do not affect other jobs are written later, together with those of other batches.
local function check_batch(id, limit, now)
  know({ id })
  local batch, row = known[id], batches().row_of(id)
  local moved = 0
  if batch and row and batch.state ~= 'D' then
    decide_batch(batch, row, now)
    if not FINAL[batch.state] then
      moved = move_members(batch, row, limit, now)
    elseif row.stopping .. row.unopened .. row.walk ~= '' then
      row.stopping, row.unopened, row.walk = '', '', ''
      batches().touch(id)
    end
    if moved > 0 or row.outer ~= '' or is(batch, '+') then flush() end
  end
  return math.max(1, moved)
end

-- Check up to `limit` items: dependencies on ended parents, changed batches, and members that must be swept or resumed.
-- `text` contains the rules. Return the number of checked items, and 1 if there is more to check.
function verbs.release(limit, text)
  despite_full_memory()
  read_rules(text)
  local now, checked, batch = int(clock()), 0, nil
  limit = tonumber(limit)
  repeat
    if announced then
      announced = false
      checked = checked + release_children(limit - checked, now)
    end
    batch = checked < limit and call('ZPOPMIN', base .. 'changed')[1]
    if batch then checked = checked + check_batch(batch, limit - checked, now) end
  until not batch
  flush()
  notify_freed()
  return { checked, call('EXISTS', base .. 'releasing', base .. 'changed') > 0 and 1 or 0 }
end

return run(verbs)
