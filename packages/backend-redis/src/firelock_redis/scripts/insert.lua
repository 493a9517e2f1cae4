-- The jobs are stored enqueued, all of them or none. Behind lib.lua: plain ones only, so that little runs for each.
--
-- KEYS  1 base; derived: h:<id> p:<id> l:E:<queue> r:<queue> all seq work queues; publishes on wake
-- ARGV  1 clock offset, then runs of at most a thousand jobs together that have these in common:
--         queue, place of the run's priority, number of jobs
--         and for each of them: id, payload, created_at
-- Reply 0 where one of the ids is there already and nothing was stored, else 1

local now = int(clock(ARGV[1]))
local last = #ARGV
local keys, runs = {}, {}
local at = 2
while at < last do
  local count = tonumber(ARGV[at + 2])
  for id = at + 3, at + 3 * count, 3 do keys[#keys + 1] = base .. 'h:' .. ARGV[id] end
  runs[#runs + 1] = at
  at = at + 3 + 3 * count
end
local place = call('INCRBY', base .. 'seq', #keys) - #keys
local number, all = 0, {}
local texts, ready, queued = {}, {}, {}
for _, start in ipairs(runs) do
  local queue, lowest, count = ARGV[start], tonumber(ARGV[start + 1]), tonumber(ARGV[start + 2])
  local line, listed = ready[queue], queued[queue]
  if not line then
    line, listed = {}, {}
    ready[queue], queued[queue] = line, listed
  end
  local middle = ' ' .. queue .. ' \n0 0 ' .. now .. ' E\n\n'
  for arg = start + 3, start + 3 * count, 3 do
    local id, created = ARGV[arg], ARGV[arg + 2]
    number = number + 1
    local spot = format('%.0f', lowest + place + number)
    local two, four, size = 2 * number, 4 * number, #line
    texts[four - 3] = base .. 'p:' .. id
    texts[four - 2] = ARGV[arg + 1]
    texts[four - 1] = keys[number]
    texts[four] = 'E0 0 ' .. spot .. middle .. created .. '\t\t\t\t\t\t\t\t\t'
    all[two - 1] = created
    all[two] = id
    listed[size + 1] = created
    listed[size + 2] = id
    line[size + 1] = spot
    line[size + 2] = id
  end
end
if call('MSETNX', unpack(texts)) == 0 then return 0 end
many('ZADD', base .. 'all', all)
for queue, line in pairs(ready) do
  many('ZADD', base .. 'l:E:' .. queue, queued[queue])
  if call('ZCARD', base .. 'r:' .. queue) == 0 then
    call('SADD', base .. 'work', queue)
    call('SADD', base .. 'queues', queue)
    call('PUBLISH', base .. 'wake', queue)
  end
  many('ZADD', base .. 'r:' .. queue, line)
end
return 1
