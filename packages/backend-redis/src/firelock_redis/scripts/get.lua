-- Jobs as they are stored, as many of those asked for as fit into a megabyte but at least one. Behind lib.lua.
--
-- KEYS  1 base; derived: jobs payloads (see jobs.lua)
-- ARGV  ids
-- Reply record and payload of each, nil for none, in the order asked; where there are fewer, the rest was left out

local BYTES, TOGETHER = 1000000, 10

local reply, size = {}, 0
for first = 1, #ARGV, TOGETHER do
  if size > BYTES then break end
  local last = math.min(first + TOGETHER - 1, #ARGV)
  local records = call('HMGET', base .. 'jobs', unpack(ARGV, first, last))
  local payloads = call('HMGET', base .. 'payloads', unpack(ARGV, first, last))
  for number, text in ipairs(records) do
    local payload, place = payloads[number], 2 * (first + number) - 3
    reply[place], reply[place + 1] = text, payload
    size = size + #(text or '') + #(payload or '')
  end
end
return reply
