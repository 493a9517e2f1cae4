-- What a session holds in this partition, compared with what its child believes. Behind lib.lua and jobs.lua.
--
-- KEYS  1 base; derived: s:<session> held:<session> tails:<session> jobs payloads
-- ARGV  1 session, then for each job that the child believes to hold: id, fence, start or nothing
-- Reply 1 where the session lives here, else 0; places among the believed of those that are not held; id, record and
--       payload of each job that is the session's and was not named

local STARTED = '^(.*\n[^\t\n]*\t[^\t\n]*\t)([^\t\n]*)(\t[^\n]*)$'  -- the last line, before and behind the start

local session, fences, texts = ARGV[1], {}, {}
local ids = call('ZRANGE', base .. 'held:' .. session, 0, -1)
for _, id in ipairs(call('SMEMBERS', base .. 'tails:' .. session)) do ids[#ids + 1] = id end
local stored = records(ids)
for number, id in ipairs(ids) do
  local text = stored[number]
  if text then fences[id], texts[id] = match(text, '^%u%+?%d+ (%d+) '), text end
end

local lost, started = {}, {}

local function start(id, at)
  local before, was, behind = match(texts[id], STARTED)
  if not before or was == at then return end
  started[#started + 1] = id
  started[#started + 1] = before .. at .. behind
end

for arg = 2, #ARGV, 3 do
  local id, at = ARGV[arg], ARGV[arg + 2]
  local is_named = fences[id] == ARGV[arg + 1]
  if is_named then fences[id] = nil end
  if not is_named or sub(texts[id], 1, 1) ~= 'P' then
    lost[#lost + 1] = (arg - 2) / 3
  elseif at ~= '' then
    start(id, at)
  end
end
for first = 1, #started, CHUNK do
  call('DEL', base .. 'none')  -- a first write that needs no memory: who runs goes on when it is full
  call('HSET', base .. 'jobs', unpack(started, first, math.min(first + CHUNK - 1, #started)))
end

local unknown = {}
for _, id in ipairs(ids) do
  if fences[id] then
    unknown[#unknown + 1] = id
    unknown[#unknown + 1] = texts[id]
    unknown[#unknown + 1] = call('HGET', base .. 'payloads', id)
  end
end
return { call('HGET', base .. 's:' .. session, 'alive') == '1' and 1 or 0, lost, unknown }
