-- Jobs with limits, or that are to start before some instant, and ask for nothing else beside what the payload holds, are
-- stored enqueued, all of them or none. Behind library.lua and jobs.lua.
--
-- KEYS  those of jobs.lua; publishes on wake
-- ARGV  2 on: runs of at most a thousand jobs together that have these in common: queue, place of the run's priority, number of
--       jobs, and for each of them: id, payload, what it asks
-- Reply 0 where one of the ids is there already and nothing was stored, else 1

local last, at = #ARGV, 2

local places, ids = {}, {}
while at < last do
  local first = at + 3
  at = first + 3 * ARGV[at + 2]
  for arg = first, at - 1, 3 do
    local two = #places
    places[two + 1], places[two + 2] = match(ARGV[arg + 1], '^[^\t]*\t[^\t]*\t(%d+)'), ARGV[arg]
    ids[#ids + 1] = ARGV[arg]
  end
end

-- What was added for nothing is taken back: it stands in no other place yet.
if call('ZADD', base .. 'all', 'NX', unpack(places)) < #ids then
  for _, id in ipairs(ids) do
    if call('HEXISTS', base .. 'jobs', id) == 0 then call('ZREM', base .. 'all', id) end
  end
  return 0
end

local now, place = int(clock()), call('INCRBY', base .. 'seq', #ids) - #ids
local jobs, payloads, names = {}, {}, {}
local number = 0
at = 2
while at < last do
  local queue, lowest, first = ARGV[at], ARGV[at + 1], at + 3
  local middle, behind_lane = ' ' .. queue .. ' \n0 0 ' .. now .. ' E ', {}
  at = first + 3 * ARGV[at + 2]
  if not names[queue] then names[queue] = {} end
  for arg = first, at - 1, 3 do
    local two, id, text = 2 * number, ARGV[arg], ARGV[arg + 2]
    local asks, created = asks_of(text), places[two + 1]
    place, number = place + 1, number + 1
    local spot, name = format('%.0f', lowest + place), behind_lane[asks.lane]
    jobs[two + 1], jobs[two + 2] = id, 'E0 0 ' .. spot .. middle .. text .. '\n\n' .. created .. '\t\t\t\t\t\t\t\t\t'
    payloads[two + 1], payloads[two + 2] = id, ARGV[arg + 1]
    add('l:E:' .. queue, created, id)
    if not name then
      name = asks.lane == '' and 'r:' .. queue or 'lane:' .. queue .. ' ' .. asks.lane
      behind_lane[asks.lane] = name
      if asks.lane ~= '' then names[queue][asks.lane] = true end
    end
    add(name, spot, asks.is_odd and asks.lane ~= '' and id .. '\n' or id)
  end
end
call('HSET', base .. 'payloads', unpack(payloads))
call('HSET', base .. 'jobs', unpack(jobs))
for key, members in pairs(adds) do add_all(key, members) end
for queue, some in pairs(names) do
  call('SADD', base .. 'queues', queue)
  local opened = {}
  for lane in pairs(some) do opened[#opened + 1] = lane end
  if #opened > 0 and open_lanes(queue, opened) then wake(queue) end
end
return 1
