-- What moves by itself: due jobs, children of ended parents. Behind library.lua, jobs.lua and children.lua.
--
-- KEYS  those of jobs.lua and children.lua, due:recurring, pausing; publishes on wake

local verbs = {}

-- What is due in this partition, and when something will be. Reply the next due instant or nothing; the stamp of the pauses
-- known here (see records.lua); then the instants of up to `limit` scheduled jobs that are due, oldest first.
function verbs.due(limit)
  local reply = { next_due(), call('GET', base .. 'pausing') or '0' }
  local due = call('ZRANGEBYSCORE', base .. 'due', '-inf', int(clock()), 'WITHSCORES', 'LIMIT', 0, limit)
  for place = 2, #due, 2 do reply[#reply + 1] = due[place] end
  return reply
end

-- Up to `limit` scheduled jobs that are due are enqueued, oldest due first, with this reason as JSON. Reply how many, and
-- the next due instant or nothing.
function verbs.promote(limit, reason)
  despite_full_memory()
  local now = int(clock())
  local ids = call('ZRANGEBYSCORE', base .. 'due', '-inf', now, 'LIMIT', 0, limit)
  local line = step('E', now, reason)
  for number, job in ipairs(read_all(ids)) do
    if job and job.state == 'C' then
      leave(job)
      job.state, job.reason, job.changed, job.enqueued, job.due = 'E', reason, now, now, ''
      job.history = job.history .. line
      to_back(job)
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

local known = {}  -- by id: jobs as they are by now, whatever was not written yet

local function know(ids)
  local unknown = {}
  for _, id in ipairs(ids) do
    if known[id] == nil then unknown[#unknown + 1] = id end
  end
  for number, job in ipairs(read_all(unknown)) do known[unknown[number]] = job end
end

-- Whether the tie has done its part.
local function look(tie, parent, now)
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

-- Look at as many ties of the parent, from where the last look at this end of it came to; return how many there were.
local function look_from(parent, number, wanted, now)
  local seen, tie = match(call('HGET', base .. 'looked', parent.id) or '', '^(%S+) (%S+)$')
  local key, after = base .. 'pend:' .. parent.id, seen == number and '(' .. tie or '-inf'
  local ties = call('ZRANGEBYSCORE', key, after, '+inf', 'WITHSCORES', 'LIMIT', 0, wanted)
  local ids, done = {}, {}
  for place = 1, #ties, 2 do ids[#ids + 1] = sub(ties[place], 3) end
  know(ids)
  for place = 1, #ties, 2 do
    if look(ties[place], parent, now) then done[#done + 1] = ties[place] end
  end
  many('ZREM', key, done)
  if #ids == wanted then call('HSET', base .. 'looked', parent.id, number .. ' ' .. ties[#ties]) end
  return #ids
end

-- Up to `limit` ties to ended parents are looked at, those first whose parent ended first; rules say what follows.
--
-- A parent leaves the list when each of its ties was looked at once, be it that some of them are kept: their children go
-- on waiting. Where the limit comes between, looked HASH parent -> "end tie" remembers for which end of the parent how far
-- the look has come. Reply how many were looked at, and 1 where there is more to look at.
function verbs.release(limit, rules)
  despite_full_memory()
  read_rules(rules)
  local now, looked_at, parents = int(clock()), 0, 0
  limit = tonumber(limit)
  local first
  while true do
    first = call('ZRANGE', base .. 'releasing', 0, 0, 'WITHSCORES')
    if not first[1] or looked_at >= limit or parents >= limit then break end
    parents = parents + 1
    know({ first[1] })
    local parent, is_done = known[first[1]], true
    local is_final = parent and FINAL[parent.state]
    if is_final then
      local wanted = limit - looked_at
      local some = look_from(parent, first[2], wanted, now)
      looked_at, is_done = looked_at + some, some < wanted
    end
    if is_done then
      withdraw(first[1])
      -- One that has expired meanwhile was passed over by `prune`: it is told of it again.
      if is_final and parent.expires ~= '' and tonumber(parent.expires) <= tonumber(now) then
        expires(parent.expires, first[1])
      end
    end
  end
  flush()
  tell_freed()
  return { looked_at, first[1] and 1 or 0 }
end

return run(verbs)
