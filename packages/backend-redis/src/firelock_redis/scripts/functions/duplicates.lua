-- The effect of a call on the job that has its unique key. Included after jobs.lua and unique.lua, before insert.lua.

-- Return the position in a string at which the JSON array that starts at the given position ends.
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

local WRITTEN = PAYLOAD.captures(task, serializer, created, optional, arguments) .. '$'
local BEFORE_TAGS = '^%[' .. string.rep('[^,]*,', OPTIONAL.tags - 1) .. '()'

-- Return the positions of the brackets around the tags in the optional fields.
local function tags_in(optional)
  local first = match(optional, BEFORE_TAGS)
  return first, array_end(optional, first)
end

-- Return the job's payload with the arguments, the serializer and the tags of the new call, in the order of PAYLOAD.
local function replaced_payload(stored, given)
  local task, _, created, optional = match(stored, WRITTEN)
  local _, serializer, _, given_optional, arguments = match(given, WRITTEN)
  local tags = '[]'
  if given_optional ~= '' then tags = sub(given_optional, tags_in(given_optional)) end
  if optional == '' and tags ~= '[]' then optional = OPTIONAL.nothing end
  if optional ~= '' then
    local first, last = tags_in(optional)
    optional = sub(optional, 1, first - 1) .. tags .. sub(optional, last + 1)
  end
  return task .. '\t' .. serializer .. '\t' .. created .. '\t' .. optional .. '\n' .. arguments
end

-- Return the job's admission with the limits of the new call.
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
