-- How long lists of jobs are, for who chooses which of them to read. Behind lib.lua.
--
-- KEYS  1 base; derived: those named, l:<state>:<queue> queues running held:<session> (see jobs.lua), sx
--       ending living (see begin_session.lua, end_session.lua and admit_session.lua)
-- ARGV  1 letters of states whose lists are asked for; 2 = and the queue whose lists they are, nothing for every queue;
--       then names of other lists
-- Reply the length of each of the others; then name and length of each list of the states that is not empty

local states, queue = ARGV[1], ARGV[2]
local reply = {}
for number = 3, #ARGV do reply[#reply + 1] = call('ZCARD', base .. ARGV[number]) end

local function tell(name)
  local length = call('ZCARD', base .. name)
  if length > 0 then
    reply[#reply + 1] = name
    reply[#reply + 1] = length
  end
end

-- Every session that may hold a job here: the living ones, and dead ones until all is taken from them.
local function sessions()
  local found = call('SMEMBERS', base .. 'living')
  for _, key in ipairs({ 'sx', 'ending' }) do
    for _, session in ipairs(call('ZRANGE', base .. key, 0, -1)) do found[#found + 1] = session end
  end
  return found
end

local queues = {}
if queue ~= '' then
  queues[1] = sub(queue, 2)
elseif states ~= '' and states ~= 'P' then
  queues = call('SMEMBERS', base .. 'queues')
end
for state in string.gmatch(states, '.') do
  if state ~= 'P' then
    for _, name in ipairs(queues) do tell('l:' .. state .. ':' .. name) end
  elseif queue == '' or call('HGET', base .. 'running', queues[1]) then
    for _, session in ipairs(sessions()) do tell('held:' .. session) end
  end
end
return reply
