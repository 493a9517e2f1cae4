-- Pausing a queue, as a function. Behind lib.lua, in front of put_record.lua and delete_record.lua.
--
-- paused is the SET of paused queues that a claim looks at. In the first partition it is changed with the queue's record,
-- and is copied whole to the others right after. pausing is the stamp of what a partition has: each hears of a change in
-- a call of its own, and what comes late must not undo what came after it. A stamp is micros of the server's clock, so
-- that it grows also behind a failover that has lost the last ones.

local function set_pause(queue, is_paused)
  if call(is_paused and 'SADD' or 'SREM', base .. 'paused', queue) == 0 then return end
  call('SET', base .. 'pausing', int(math.max(clock(0), (call('GET', base .. 'pausing') or 0) + 1)))
  if not is_paused then call('PUBLISH', base .. 'wake', '*') end
end
