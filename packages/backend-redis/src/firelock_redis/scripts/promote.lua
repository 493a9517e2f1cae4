-- Up to `limit` scheduled jobs that are due are enqueued, oldest due first. Behind lib.lua, jobs.lua and due_lib.lua.
--
-- KEYS  1 base; derived: those of jobs.lua, rdue; publishes on wake
-- ARGV  1 clock offset, 2 limit, 3 reason as JSON
-- Reply how many, and the next due instant or nothing

call('DEL', base .. 'none')  -- a first write that needs no memory: what drains goes on when it is full

local now, reason = int(clock(ARGV[1])), ARGV[3]
local ids = call('ZRANGEBYSCORE', base .. 'due', '-inf', now, 'LIMIT', 0, ARGV[2])
local line = step('E', now, reason)
local texts = records(ids)
for number, id in ipairs(ids) do
  local job = texts[number] and read(id, texts[number])
  if job and job.state == 'C' then
    leave(job)
    job.state, job.reason, job.changed, job.enqueued, job.due = 'E', reason, now, now, ''
    job.history = job.history .. line
    to_back(job)
    save(job)
    enter(job)
  else
    put(removes, 'due', id)
  end
end
flush()
return { #ids, next_due() }
