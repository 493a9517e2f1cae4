-- Statistics of ended jobs. Included after library.lua.
--
-- m:<minute> HASH JSON of [task, queue, outcome] -> "count duration" and one number per bucket; mz ZSET of the
-- minutes that have statistics.

local verbs = {}

-- Return the sums of two lists of numbers, position by position. The sums are exact, because no number comes near 2^53
-- (285 years in microseconds). One list may be longer than the other.
local function sum(one, other)
  local added, place = {}, 0
  local ones, others = string.gmatch(one, '%S+'), string.gmatch(other, '%S+')
  local left, right = ones(), others()
  while left or right do
    place = place + 1
    added[place] = int((left or 0) + (right or 0))
    left, right = ones(), others()
  end
  return table.concat(added, ' ')
end

-- Add rollups to the statistics of their minutes. ARGV from 3: an ADDED_ROLLUP for each.
function verbs.record()
  for arg = 3, #ARGV, ADDED_ROLLUP.width do
    local field, figures = ARGV[arg + ADDED_ROLLUP.field], ARGV[arg + ADDED_ROLLUP.figures]
    local minute = ARGV[arg + ADDED_ROLLUP.minute]
    local key = base .. 'm:' .. minute
    local stored = call('HGET', key, field)
    call('HSET', key, field, stored and sum(figures, stored) or figures)
    call('ZADD', base .. 'mz', minute, minute)
  end
end

-- Return the statistics of the minutes from `since` on and before `till`, in order of minute. The reply contains only
-- whole minutes: at least one, at most five hundred, and otherwise as many as have five hundred rollups in total.
-- `task` is the start of the fields of a task, or empty; `queue` is a part of the fields of a queue, or empty. Return
-- the minute at which to continue, empty if there are no more minutes; then for each minute: the minute, its fields and
-- figures.
function verbs.timeline(since, till, task, queue)
  local minutes = call('ZRANGEBYSCORE', base .. 'mz', since, '(' .. till, 'LIMIT', 0, 501)
  local reply, seen = { '' }, 0
  for place, minute in ipairs(minutes) do
    if seen >= 500 or place > 500 then
      reply[1] = minute
      break
    end
    local stored, found = call('HGETALL', base .. 'm:' .. minute), {}
    for field = 1, #stored, 2 do
      seen = seen + 1
      if find(stored[field], task, 1, true) == 1 and find(stored[field], queue, 1, true) then
        found[#found + 1] = stored[field]
        found[#found + 1] = stored[field + 1]
      end
    end
    reply[#reply + 1] = minute
    reply[#reply + 1] = found
  end
  return reply
end

return run(verbs)
