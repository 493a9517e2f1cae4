-- What every script has at hand; it stands in front of each of them.
-- KEYS[1] is the base of a partition, such as firelock:{0}; every other key is derived from it.

local base = KEYS[1] .. ':'
local call = redis.call
local match, find, sub, format = string.match, string.find, string.sub, string.format
local CHUNK = 1000

-- Micros of the storage's own clock; tests move it by the offset.
local function clock(offset)
  local time = call('TIME')
  return time[1] * 1000000 + time[2] + offset
end

-- A number with all its digits: concatenation keeps fourteen of them.
local function int(number)
  return format('%.0f', number)
end

-- Call a command with any number of members, as many at a time as Lua can lay on its stack.
local function many(command, key, members)
  for first = 1, #members, CHUNK do
    call(command, key, unpack(members, first, math.min(first + CHUNK - 1, #members)))
  end
end
