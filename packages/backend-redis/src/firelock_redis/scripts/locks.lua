-- Locks. Included after library.lua.
--
-- lock:<name> HASH owner, fence, ends_at. The storage's clock decides whether a lock has ended. Its key expires one
-- minute later by the server's clock, but only as a cleanup. The data of a lock need not be kept for longer, because
-- locks of all names get their fences from one counter in the partition: the key fences contains the last fence. The
-- next fence is the server's clock in microseconds if that is larger. So fences keep growing after a failover that has
-- lost the last fences: if two owners hold a lock after the failover, the later owner has the larger fence.

local verbs = {}

-- Return the owner and the fence of a lock, nil if it is free.
local function holder(key, now)
  local owner, fence, ends_at = unpack(call('HMGET', key, 'owner', 'fence', 'ends_at'))
  if owner and tonumber(ends_at) > now then return owner, fence end
end

-- Set the lock to end after this many microseconds; store the owner and the fence if they are given.
local function live(key, now, ttl, ...)
  call('HSET', key, 'ends_at', int(now + ttl), ...)
  call('PEXPIRE', key, int(math.ceil(ttl / 1000) + 60000))
end

-- Acquire the lock for the owner if it is free or the owner already holds it. Return the fence, nil if another owner
-- holds the lock.
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

-- Renew the lock if the owner still holds it with this fence. Return 1 if so, else 0.
function verbs.renew(name, owner, fence, ttl)
  local key, now = base .. 'lock:' .. name, clock()
  local current_owner, current_fence = holder(key, now)
  if current_owner ~= owner or current_fence ~= fence then return 0 end
  despite_full_memory()
  live(key, now, ttl)
  return 1
end

-- Release the lock if the owner still holds it with this fence. Return 1 if so, else 0.
function verbs.release(name, owner, fence)
  local key = base .. 'lock:' .. name
  local current_owner, current_fence = holder(key, clock())
  if current_owner ~= owner or current_fence ~= fence then return 0 end
  return call('DEL', key)
end

return run(verbs)
