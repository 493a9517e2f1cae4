-- The next due instant of a partition, as a function. Behind lib.lua, in front of due.lua and promote.lua.
--
-- due ZSET of scheduled jobs, rdue ZSET of recurring definitions, both by their instant.

-- The earliest of both as text, nothing where there is none.
local function next_due()
  local due = call('ZRANGE', base .. 'due', 0, 0, 'WITHSCORES')[2]
  local recurring = call('ZRANGE', base .. 'rdue', 0, 0, 'WITHSCORES')[2]
  if due and recurring then return tonumber(recurring) < tonumber(due) and recurring or due end
  return due or recurring or ''
end
