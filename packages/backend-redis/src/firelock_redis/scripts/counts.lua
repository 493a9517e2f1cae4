-- How many jobs are in each state, queue by queue. Behind lib.lua.
--
-- KEYS  1 base; derived: queues running l:<state>:<queue> (see jobs.lua)
-- ARGV  queues, none for all of them
-- Reply names of queues that were left out, for a call of their own; then for each of the others: its name and the
--       numbers of its jobs that are awaiting, scheduled, enqueued, succeeded, failed, deleted and processing

local TOGETHER = 400
local STATES = { 'W', 'C', 'E', 'S', 'F', 'D' }

local names = #ARGV > 0 and ARGV or call('SMEMBERS', base .. 'queues')
local reply, later = {}, {}
for place, queue in ipairs(names) do
  if place > TOGETHER then
    later[#later + 1] = queue
  else
    local numbers = { queue }
    for number, state in ipairs(STATES) do
      numbers[number + 1] = call('ZCARD', base .. 'l:' .. state .. ':' .. queue)
    end
    numbers[#numbers + 1] = tonumber(call('HGET', base .. 'running', queue) or 0)
    reply[#reply + 1] = numbers
  end
end
table.insert(reply, 1, later)
return reply
