-- The paused queues of this partition are those of the first one, unless later ones are known here. Behind lib.lua.
--
-- KEYS  1 base; derived: paused pausing (see pause_lib.lua); publishes on wake
-- ARGV  1 stamp, then the names of all that are paused
-- Reply the stamp of what is known here now

local known = call('GET', base .. 'pausing') or '0'
if tonumber(known) >= tonumber(ARGV[1]) then return known end

local paused = base .. 'paused'
local before, names = call('SMEMBERS', paused), {}
for arg = 2, #ARGV do names[arg - 1] = ARGV[arg] end
call('DEL', paused)  -- a first write that needs no memory: a queue is resumed when memory is full
many('SADD', paused, names)
call('SET', base .. 'pausing', ARGV[1])
for _, queue in ipairs(before) do
  if call('SISMEMBER', paused, queue) == 0 then
    call('PUBLISH', base .. 'wake', '*')
    break
  end
end
return ARGV[1]
