-- Continuations, as functions. Behind jobs.lua, in front of insert.lua, upkeep.lua and prune.lua.
--
-- pend:<parent> ZSET of ties that nothing has been decided for, "on child" in order of insertion, where on is
-- S succeeded, F failed, D deleted or X finished; n:<child> how many ties of a child are undecided, where there was more
-- than one; c:<parent> ZSET of all children by their creation; releasing ZSET of parents whose end has not been followed
-- up, by ends, the number of the last end; looked HASH (see upkeep.lua).
--
-- A parent's record has the flag + from its first child on. A child that waits no more has no ties.

local rules

-- What follows from a parent's end, as `lifecycle` says: by on and state the target, or nothing and the reason to go on
-- waiting; by state the reason of what moves. Reasons are JSON.
local function read_rules(text)
  rules = cjson.decode(text)
end

-- The waiting child is deleted, and kept as long after its end as its parent after its own.
local function end_child(child, parent, reason, at)
  child.state, child.reason, child.changed, child.ended = 'D', reason, at, at
  child.expires = ''
  if parent.expires ~= '' and parent.ended ~= '' then child.expires = int(at + parent.expires - parent.ended) end
  child.history = child.history .. step('D', at, reason)
end

-- The child waits no more: it is what `decide` or `end_child` has made of it.
local function follow(child)
  put(removes, 'l:W:' .. child.queue, child.id)
  if call('DEL', base .. 'n:' .. child.id) == 1 then forget_ties(child.id) end
  save(child)
  enter(child)
  announce(child)
end

local function other_ties(child)
  local left = tonumber(call('GET', base .. 'n:' .. child.id) or 1) - 1
  if left > 0 then call('SET', base .. 'n:' .. child.id, int(left)) end
  return left
end

-- Look at an awaiting child's tie to an ended parent. Return the state it goes to, W where other ties are left, nothing
-- where this one goes on waiting. The caller saves it.
local function decide(child, on, parent, at, now, ties_left)
  local rule = rules[on .. parent.state]
  local target = rule and rule[1]
  if target == 'D' then
    end_child(child, parent, rules[parent.state], at)
    return 'D'
  elseif target == 'E' then
    if ties_left(child) > 0 then return 'W' end
    local reason = rules[parent.state]
    child.state, child.reason, child.changed, child.enqueued = 'E', reason, at, now
    child.history = child.history .. step('E', at, reason)
    to_back(child)
    return 'E'
  end
  if rule then child.reason = rule[2] end
  return nil
end
