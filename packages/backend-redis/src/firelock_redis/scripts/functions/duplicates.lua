-- The effect of a call on the job that has its unique key. Included after jobs.lua and unique.lua, before insert.lua.

-- Return the position of the end of the JSON array that starts at this position of a string.
local function array_end(text, at)
  local depth = 0
  while true do
    local place = find(text, '[%[%]"]', at)
    local char = sub(text, place, place)
    at = place + 1
    if char == '"' then
      local stop = find(text, '["\\]', at)
      while sub(text, stop, stop) ~= '"' do stop = find(text, '["\\]', stop + 2) end
      at = stop + 1
    else
      depth = depth + (char == '[' and 1 or -1)
      if depth == 0 then return place end
    end
  end
end

local WRITTEN = PAYLOAD.captures(task, serializer, created, rarer, arguments) .. '$'
local BEFORE_TAGS = '^%[' .. string.rep('[^,]*,', RARER.tags - 1) .. '()'

-- Return the positions of the brackets around the tags in the rarer fields.
local function tags_in(rare)
  local first = match(rare, BEFORE_TAGS)
  return first, array_end(rare, first)
end

-- Return the job's payload with the arguments, the serializer and the tags of the call, in the order of PAYLOAD.
local function replaced_payload(stored, given)
  local task, _, created, rare = match(stored, WRITTEN)
  local _, serializer, _, given_rare, arguments = match(given, WRITTEN)
  local tags = '[]'
  if given_rare ~= '' then tags = sub(given_rare, tags_in(given_rare)) end
  if rare == '' and tags ~= '[]' then rare = RARER.nothing end
  if rare ~= '' then
    local first, last = tags_in(rare)
    rare = sub(rare, 1, first - 1) .. tags .. sub(rare, last + 1)
  end
  return task .. '\t' .. serializer .. '\t' .. created .. '\t' .. rare .. '\n' .. arguments
end

-- Return the job's admission with the limits of the call.
local function replaced_admission(stored, given)
  return ' [' .. sub(given, 3, array_end(given, 3)) .. sub(stored, array_end(stored, 3) + 1)
end

-- Add a call that has changed the waiting job to the job's history; consecutive calls share a line.
local function add_duplicate(job, at)
  local before, last = match('\n' .. job.history, '^(.*\n)([^\n]+\n)$')
  local count = last and match(last, '^%["%a+",%-?%d+,"(%d+) duplicate calls?"%]\n$')
  local line = count and int(count + 1) .. ' duplicate calls' or '1 duplicate call'
  job.history = (count and sub(before, 2) or job.history) .. entry_line(job.state, at, '"' .. line .. '"')
end
