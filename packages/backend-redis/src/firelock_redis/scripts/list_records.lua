-- Records in order of key, as many as fit into half a megabyte but at least one. Behind lib.lua.
--
-- KEYS  1 base; derived: k:<kind> kz:<kind> (see put_record.lua)
-- ARGV  1 kind, 2 the key that those listed come after, 3 limit
-- Reply 1 where others within the limit were left out, else 0; then key, "version value" of each

local BYTES = 500000

local keys = call('ZRANGEBYLEX', base .. 'kz:' .. ARGV[1], '(' .. ARGV[2], '+', 'LIMIT', 0, ARGV[3])
local reply, size = { 0 }, 0
for _, key in ipairs(keys) do
  if size > BYTES then
    reply[1] = 1
    break
  end
  local value = call('HGET', base .. 'k:' .. ARGV[1], key)
  reply[#reply + 1] = key
  reply[#reply + 1] = value
  size = size + #value
end
return reply
