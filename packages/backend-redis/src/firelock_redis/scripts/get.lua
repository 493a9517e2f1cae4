-- Jobs as they are stored, as many of those asked for as fit into a megabyte but at least one. Behind lib.lua.
--
-- KEYS  1 base; derived: h:<id> p:<id> (see jobs.lua)
-- ARGV  ids
-- Reply record and payload of each, nil for none, in the order asked; where there are fewer, the rest was left out

local BYTES, TOGETHER = 1000000, 10

local reply, size = {}, 0
for first = 1, #ARGV, TOGETHER do
  if size > BYTES then break end
  local keys = {}
  for number = first, math.min(first + TOGETHER - 1, #ARGV) do
    keys[#keys + 1] = base .. 'h:' .. ARGV[number]
    keys[#keys + 1] = base .. 'p:' .. ARGV[number]
  end
  for number, text in ipairs(call('MGET', unpack(keys))) do
    reply[2 * first - 2 + number] = text
    if text then size = size + #text end
  end
end
return reply
