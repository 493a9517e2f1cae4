-- Locks, as functions. Behind lib.lua, in front of acquire_lock.lua, renew_lock.lua and release_lock.lua.
--
-- lock:<name> HASH owner, fence, ends_at. The storage's clock says when a lock has ended; the expiry of its key, a minute
-- later by the server's clock, only clears up. For nothing of a lock need outlive it: every name takes its tokens from one
-- row in the partition. fences is the last of them, and the next one is micros of the server's clock where those are
-- larger, so that the row goes on rising behind a failover that has lost the last ones: whoever then holds a lock beside
-- its former holder has the larger token.

local MINUTE = 60000

local function lock_key(name)
  return base .. 'lock:' .. name
end

-- Owner and token of whoever holds the lock now, nil where nobody does.
local function holder(name, now)
  local held = call('HMGET', lock_key(name), 'owner', 'fence', 'ends_at')
  if held[1] and tonumber(held[3]) > now then return held[1], held[2] end
  return nil
end

local function next_fence()
  local fence = int(math.max(clock(0), (call('GET', base .. 'fences') or 0) + 1))
  call('SET', base .. 'fences', fence)
  return fence
end

-- The lock lives for the ttl from now; owner and token are written where they are given.
local function live(name, now, ttl, ...)
  call('HSET', lock_key(name), 'ends_at', int(now + ttl), ...)
  call('PEXPIRE', lock_key(name), int(math.ceil(ttl / 1000) + MINUTE))
end
