-- Locks. Behind library.lua.
--
-- lock:<name> HASH owner, fence, ends_at. The storage's clock says when a lock has ended; the expiry of its key, a minute
-- later by the server's clock, only clears up. For nothing of a lock need outlive it: every name takes its tokens from one
-- row in the partition. fences is the last of them, and the next one is micros of the server's clock where those are
-- larger, so that the row goes on rising behind a failover that has lost the last ones: whoever then holds a lock beside
-- its former holder has the larger token.

local verbs = {}

-- Owner and token of whoever holds the lock now, nil where nobody does.
local function holder(key, now)
  local owner, fence, ends_at = unpack(call('HMGET', key, 'owner', 'fence', 'ends_at'))
  if owner and tonumber(ends_at) > now then return owner, fence end
end

-- The lock lives for so many micros from now; owner and token are written where they are given.
local function live(key, now, ttl, ...)
  call('HSET', key, 'ends_at', int(now + ttl), ...)
  call('PEXPIRE', key, int(math.ceil(ttl / 1000) + 60000))
end

-- The lock is the owner's if it is free or is so already. Reply the token; nil where another holds the lock.
function verbs.acquire(name, owner, ttl)
  local key, now = base .. 'lock:' .. name, clock()
  local other, fence = holder(key, now)
  if other and other ~= owner then return false end
  despite_full_memory()
  if not fence then
    fence = int(math.max(server_clock(), (call('GET', base .. 'fences') or 0) + 1))
    call('SET', base .. 'fences', fence)
  end
  live(key, now, ttl, 'owner', owner, 'fence', fence)
  return fence
end

-- The lock lives on if it is still the owner's with this token. Reply 1, 0 where it is not.
function verbs.renew(name, owner, token, ttl)
  local key, now = base .. 'lock:' .. name, clock()
  local other, fence = holder(key, now)
  if other ~= owner or fence ~= token then return 0 end
  despite_full_memory()
  live(key, now, ttl)
  return 1
end

-- The lock is free if it was still the owner's with this token. Reply 1, 0 where it was not.
function verbs.release(name, owner, token)
  local key = base .. 'lock:' .. name
  local other, fence = holder(key, clock())
  if other ~= owner or fence ~= token then return 0 end
  return call('DEL', key)
end

return run(verbs)
