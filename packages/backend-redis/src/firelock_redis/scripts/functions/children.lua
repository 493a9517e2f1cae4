-- Continuations, as functions. Behind batches.lua and jobs.lua, in front of insert.lua, upkeep.lua and prune.lua.
--
-- pend:<parent> ZSET of ties that nothing has been decided for, "on child" in order of insertion, where on is
-- S succeeded, F failed, D deleted or X finished; n:<child> how many ties of a child are undecided, where there was more
-- than one; c:<parent> ZSET of all children by their creation; releasing ZSET of parents whose end has not been followed
-- up, by ends, the number of the last end; looked HASH (see upkeep.lua).
--
-- A parent's record has the flag + from its first child on. A child that waits no more has no ties. A suspended job is a child of
-- those that it waits for: its ties are in pend: as well, with the letter X, and in w:<child> SET of its parents.

local rules

-- What follows from a parent's end, as `lifecycle` says: by on and state the target, or nothing and the reason to go on
-- waiting; by state the reason of what moves. Reasons are JSON.
local function read_rules(text)
  rules = cjson.decode(text)
end

-- The waiting child is deleted, and kept as long after its end as its parent after its own; a batch is cancelled.
local function end_child(child, parent, reason, at)
  if is(child, 'b') then return cancel(child, reason, at) end
  child.state, child.reason, child.changed, child.ended = 'D', reason, at, at
  child.expires = ''
  if parent.expires ~= '' and parent.ended ~= '' then child.expires = int(at + parent.expires - parent.ended) end
  child.history = child.history .. step('D', at, reason)
end

-- The child waits no more: it is what `decide` or `end_child` has made of it.
local function follow(child)
  put(removes, 'l:W:' .. child.queue, child.id)
  if call('DEL', base .. 'n:' .. child.id) == 1 or child.waits ~= '' then forget_ties(child) end
  child.waits = ''
  save(child)
  enter(child)
  announce(child)
end

local function other_ties(child)
  local left = tonumber(call('GET', base .. 'n:' .. child.id) or 1) - 1
  if left > 0 then call('SET', base .. 'n:' .. child.id, int(left)) end
  return left
end

-- The member of a batch, which waits for no fellow, waits until that opens, if its batch is shut; its last step is that.
local function keep_out(job)
  if not is(job, 'm') or FINAL[job.state] then return end
  local outer, row = batches().row_of(batches().ties_of(job).batch), is(job, 'b') and batches().row_of(job.id)
  if not outer or outer.shut == '' or (row and row.cancelled ~= '') then return end
  local before, at = match('\n' .. job.history, '^(.*\n)%["%a+",(%-?%d+)[^\n]*\n$')
  if at then job.history = sub(before, 2) .. step('W', at, rules.shut_out) end
  if row then row.shut = '1' else job.due = '' end
  job.state, job.enqueued, job.reason, job.flag = 'W', '0', rules.shut_out, job.flag .. 'o'
end

-- Look at an awaiting child's tie to an ended parent. Return the state it goes to, W where other ties are left, nothing
-- where this one goes on waiting. The caller saves it. A batch stays what it is: for D it is cancelled, for E it has opened.
local function decide(child, on, parent, at, now, ties_left)
  local rule = rules[on .. parent.state]
  local target, reason = rule and rule[1], rules[parent.state]
  if target == 'D' then
    end_child(child, parent, reason, at)
    return 'D'
  elseif target == 'E' then
    if ties_left(child) > 0 then return 'W' end
    child.reason, child.changed = reason, at
    if is(child, 'b') then
      batches().open(child.id)
      child.history = child.history .. step('W', at, reason)
      keep_out(child)
      return 'E'
    end
    if child.due ~= '' then put(removes, 'due', child.id) end
    child.state, child.enqueued, child.due = 'E', now, ''
    child.history = child.history .. step('E', at, reason)
    to_back(child)
    keep_out(child)
    return 'E'
  end
  if rule then child.reason = rule[2] end
  return nil
end
