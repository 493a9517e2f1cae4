-- Sessions, oldest first, some at a time. Behind lib.lua; in the first partition.
--
-- KEYS  1 base; derived: s:<session> ss (see begin_session.lua)
-- ARGV  nothing for all, or the sessions that are wanted
-- Reply those for a further call; then info, expires_at, alive, renewal of each of the first ones, passing over who is
--       gone

local AT_ONCE = 500

local wanted = #ARGV > 0 and ARGV or call('ZRANGE', base .. 'ss', 0, -1)
local left, reply = {}, {}
for place, session in ipairs(wanted) do
  if place > AT_ONCE then
    left[#left + 1] = session
  else
    local info, expires_at, alive, renewal =
      unpack(call('HMGET', base .. 's:' .. session, 'info', 'expires_at', 'alive', 'renewal'))
    if info then
      for _, field in ipairs({ info, expires_at, alive, renewal }) do reply[#reply + 1] = field end
    end
  end
end
return { left, reply }
