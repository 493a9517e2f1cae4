-- Continuations. Included after batches.lua and jobs.lua, before insert.lua, upkeep.lua and prune.lua.
--
-- Keys of a partition:
--   pend:<parent> ZSET: the undecided dependencies on a parent, each as "on child", in order of insertion; on is S for
--     succeeded, F for failed, D for deleted or X for finished
--   n:<child>: the number of undecided dependencies of a child that had more than one
--   c:<parent> ZSET: all children, by creation time
--   releasing ZSET: the ended parents that `release` must handle, in the order in which they ended
--   ends: the number that was last assigned to an entry of `releasing` or of `changed` (see batches.lua)
--   checked HASH: see upkeep.lua
--
-- A parent's record gets the flag + when its first child is stored. A child that no longer waits has no dependencies in
-- these lists. A suspended job is a child of the jobs for which it waits: its dependencies are also in pend:, with the
-- letter X, and w:<child> SET contains its parents.

local rules

-- Read the effects of a parent's end, which `lifecycle` defines. For each condition (`on`) and state, they contain the
-- target state, or an empty string and the reason to keep waiting. For each state, they contain the reason for the
-- change of a job. Reasons are JSON.
local function read_rules(text)
  rules = cjson.decode(text)
end

-- Delete the waiting child, with the same retention as its parent. If the child is a batch, cancel it instead.
local function end_child(child, parent, reason, at)
  if is(child, 'b') then return cancel(child, reason, at) end
  child.state, child.reason, child.changed, child.ended = 'D', reason, at, at
  child.expires = ''
  if parent.expires ~= '' and parent.ended ~= '' then child.expires = int(at + parent.expires - parent.ended) end
  child.history = child.history .. entry_line('D', at, reason)
end

-- Write a child that no longer waits because `decide` or `end_child` has changed it.
local function follow(child)
  put(removes, 'l:W:' .. child.queue, child.id)
  if call('DEL', base .. 'n:' .. child.id) == 1 or child.waits ~= '' then forget_edges(child) end
  child.waits = ''
  save(child)
  enter(child)
  announce(child)
end

local function other_edges(child)
  local left = tonumber(call('GET', base .. 'n:' .. child.id) or 1) - 1
  if left > 0 then call('SET', base .. 'n:' .. child.id, int(left)) end
  return left
end

-- If the batch of a member has not opened and the member does not wait for other members, make the member wait until
-- the batch opens. This wait replaces the last entry in its history.
local function wait_for_batch(job)
  if not is(job, 'm') or FINAL[job.state] then return end
  local outer, row = batches().row_of(batches().relations_of(job).batch), is(job, 'b') and batches().row_of(job.id)
  if not outer or outer.unopened == '' or (row and row.cancelled ~= '') then return end
  local before, at = match('\n' .. job.history, '^(.*\n)%["%a+",(%-?%d+)[^\n]*\n$')
  if at then job.history = sub(before, 2) .. entry_line('W', at, rules.waits_for_batch) end
  if row then row.unopened = '1' else job.due = '' end
  job.state, job.enqueued, job.reason, job.flag = 'W', '0', rules.waits_for_batch, job.flag .. 'o'
end

-- Apply the end of a parent to an awaiting child's dependency on it. Return the new state of the child, W if other
-- dependencies are left, nil if it continues to wait for this parent. The caller saves the child. A batch keeps its
-- state: D means that it was cancelled, and E that it was opened.
local function decide(child, on, parent, at, now, edges_left)
  local rule = rules[on .. parent.state]
  local target, reason = rule and rule[1], rules[parent.state]
  if target == 'D' then
    end_child(child, parent, reason, at)
    return 'D'
  elseif target == 'E' then
    if edges_left(child) > 0 then return 'W' end
    child.reason, child.changed = reason, at
    if is(child, 'b') then
      batches().open(child.id)
      child.history = child.history .. entry_line('W', at, reason)
      wait_for_batch(child)
      return 'E'
    end
    if child.due ~= '' then put(removes, 'due', child.id) end
    child.state, child.enqueued, child.due = 'E', now, ''
    child.history = child.history .. entry_line('E', at, reason)
    to_back(child)
    wait_for_batch(child)
    return 'E'
  end
  if rule then child.reason = rule[2] end
  return nil
end
