-- How long lists of jobs are, for who chooses which of them to read. Behind lib.lua.
--
-- KEYS  1 base; derived: those named, l:<state>:<queue> queues holders held:<session> (see jobs.lua)
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

local queues
if queue ~= '' then queues = { string.sub(queue, 2) } elseif states ~= '' then queues = call('SMEMBERS', base .. 'queues') end
for state in string.gmatch(states, '.') do
  if state == 'P' then
    for _, session in ipairs(call('SMEMBERS', base .. 'holders')) do tell('held:' .. session) end
  else
    for _, name in ipairs(queues) do tell('l:' .. state .. ':' .. name) end
  end
end
return reply
