-- Up to `limit` ties to ended parents are looked at, those first whose parent ended first. Behind lib.lua, jobs.lua and
-- children.lua.
--
-- A parent leaves the list when each of its ties was looked at once, be it that some of them are kept: their children go
-- on waiting. Where the limit comes between, `looked` remembers for which end of the parent how far the look has come.
--
-- KEYS  1 base; derived: those of jobs.lua and children.lua; looked HASH parent -> "end tie"; publishes on wake
-- ARGV  1 clock offset, 2 what follows from a parent's end (see children.lua), 3 limit
-- Reply how many were looked at, and 1 where there is more to look at

call('DEL', base .. 'none')  -- a first write that needs no memory: what drains goes on when it is full
read_rules(ARGV[2])

local now, limit, looked_at = int(clock(ARGV[1])), tonumber(ARGV[3]), 0
local known = {}  -- by id: jobs as they are by now, whatever was not written yet

local function know(ids)
  local unknown = {}
  for _, id in ipairs(ids) do
    if known[id] == nil then unknown[#unknown + 1] = id end
  end
  local texts = records(unknown)
  for number, id in ipairs(unknown) do known[id] = texts[number] and read(id, texts[number]) end
end

-- Whether the tie has done its part.
local function look(tie, parent)
  local child = known[sub(tie, 3)]
  if not child or child.state ~= 'W' then return true end
  local target = decide(child, sub(tie, 1, 1), parent, now, now, other_ties)
  if target == 'D' or target == 'E' then
    follow(child)
  elseif not target and not child.is_saved then
    child.is_saved = true
    save(child)
  end
  return target ~= nil
end

-- Look at ties of the parent from where the last look at this end of it came to; return whether all were looked at.
local function look_from(parent, number)
  local seen, tie = match(call('HGET', base .. 'looked', parent.id) or '', '^(%S+) (%S+)$')
  local key, after = base .. 'pend:' .. parent.id, seen == number and '(' .. tie or '-inf'
  local wanted = limit - looked_at
  local ties = call('ZRANGEBYSCORE', key, after, '+inf', 'WITHSCORES', 'LIMIT', 0, wanted)
  local ids, done = {}, {}
  for place = 1, #ties, 2 do ids[#ids + 1] = sub(ties[place], 3) end
  know(ids)
  for place = 1, #ties, 2 do
    if look(ties[place], parent) then done[#done + 1] = ties[place] end
  end
  many('ZREM', key, done)
  looked_at = looked_at + #ids
  if #ids < wanted then return true end
  call('HSET', base .. 'looked', parent.id, number .. ' ' .. ties[#ties])
  return false
end

-- The parent leaves the list. One that has expired meanwhile was passed over by `prune`: it is told of it again.
local function leave_list(id, parent)
  withdraw(id)
  if parent and FINAL[parent.state] and parent.expires ~= '' and tonumber(parent.expires) <= tonumber(now) then
    expires(parent.expires, id)
  end
end

local parents, first = 0, nil
while true do
  first = call('ZRANGE', base .. 'releasing', 0, 0, 'WITHSCORES')
  if not first[1] or looked_at >= limit or parents >= limit then break end
  parents = parents + 1
  know({ first[1] })
  local parent = known[first[1]]
  if not parent or not FINAL[parent.state] or look_from(parent, first[2]) then leave_list(first[1], parent) end
end
flush()
return { looked_at, first[1] and 1 or 0 }
