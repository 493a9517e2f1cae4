-- One plain job is stored enqueued: insert.lua without whatever is for several. On its own, so that little is made anew
-- for each call.
--
-- KEYS  1 base; derived: as insert.lua
-- ARGV  1 clock offset, 2 queue, 3 place of its priority, 4 id, 5 payload, 6 created_at
-- Reply 0 where the id is there already and nothing was stored, else 1

local call, base, queue, id, created = redis.call, KEYS[1] .. ':', ARGV[2], ARGV[4], ARGV[6]
if call('ZADD', base .. 'all', 'NX', created, id) == 0 then return 0 end

local time = call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2] + ARGV[1])
local spot = string.format('%.0f', ARGV[3] + call('INCR', base .. 'seq'))
call('HSET', base .. 'jobs', id, 'E0 0 ' .. spot .. ' ' .. queue .. ' \n0 0 ' .. now .. ' E\n\n' .. created
  .. '\t\t\t\t\t\t\t\t\t')
call('HSET', base .. 'payloads', id, ARGV[5])
call('ZADD', base .. 'l:E:' .. queue, created, id)
if call('EXISTS', base .. 'r:' .. queue) == 0 then
  call('SADD', base .. 'work', queue)
  call('SADD', base .. 'queues', queue)
  call('PUBLISH', base .. 'wake', queue)
end
call('ZADD', base .. 'r:' .. queue, spot, id)
return 1
