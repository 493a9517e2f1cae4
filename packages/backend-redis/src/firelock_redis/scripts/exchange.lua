-- `apply`, then `claim`, or one of them. Behind lib.lua, jobs.lua, apply.lua and claim.lua.
--
-- KEYS  1 base; derived: those of jobs.lua, s:<session> paused served recurring's rdue
-- ARGV  1 clock offset, 2 session that claims, 3 now of the caller, 4 limit, -1 for no claim,
--       5 number of queues, -1 for all of them, then their names; then groups of changes, each:
--         from (letters of states), session or nothing, to (a letter), minute of expiry or -, queue, number of jobs
--         plain where from is P, to is S and the minute is not -; for each job id, first line, at, new record;
--         else for each job id, fence, and fifteen fields, nothing where they do not matter: at, line of history,
--         reason, retries, crashes, started_at, server, 1 where the attempt is given back, due_at, expires_at,
--         result, absence, error, body of the failed attempt, its number
-- Reply results, one character a change: 0 applied, 1 releasing, 2 already, 3 refused, 4 missing, ? look closer, and
--       then nothing was claimed;
--       the next due instant or nothing; 1 where the session is lost; then id, record, payload of each claimed job

call('DEL', base .. 'none')  -- a first write that needs no memory: what ends and drains goes on when it is full

local limit, named = tonumber(ARGV[4]), tonumber(ARGV[5])
local queues = named >= 0 and {} or nil
for number = 1, named do queues[number] = ARGV[5 + number] end
local arg = 6 + math.max(named, 0)

local results, needs_a_look = {}, false
while arg < #ARGV do
  local from, session, to, minute, queue = unpack(ARGV, arg, arg + 4)
  local count = tonumber(ARGV[arg + 5])
  arg = arg + 6
  if minute ~= '-' then
    local some = {}
    end_plainly(arg, count, session, queue, minute, some)
    for number = 1, count do
      results[#results + 1] = some[number]
      if some[number] == '?' then needs_a_look = true end
    end
    arg = arg + 4 * count
  else
    local ids = {}
    for number = 1, count do ids[number] = ARGV[arg + 17 * (number - 1)] end
    local stored = records(ids)
    for number = 1, count do
      local text = stored[number]
      local result = MISSING
      if text then
        local fields = {}
        for field = 1, 15 do fields[field] = ARGV[arg + 1 + field] end
        result = change(read(ids[number], text), from, session, ARGV[arg + 1], to, fields)
      end
      results[#results + 1] = result
      arg = arg + 17
    end
    flush()
  end
end

local reply = { table.concat(results), '', '' }
if limit < 0 or needs_a_look then return reply end

local alive = call('HMGET', base .. 's:' .. ARGV[2], 'alive', 'token')
if alive[1] ~= '1' then
  reply[3] = '1'
elseif limit > 0 then
  claim(reply, queues, limit, ARGV[2], alive[2], ARGV[3])
end
local due = call('ZRANGE', base .. 'due', 0, 0, 'WITHSCORES')[2]
local recurring = call('ZRANGE', base .. 'rdue', 0, 0, 'WITHSCORES')[2]
if due and recurring then
  reply[2] = tonumber(recurring) < tonumber(due) and recurring or due
else
  reply[2] = due or recurring or ''
end
return reply
