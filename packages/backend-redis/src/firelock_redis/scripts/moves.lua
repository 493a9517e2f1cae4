-- Move waiting jobs to another queue or priority. Included after library.lua, batches.lua and jobs.lua.
--
-- KEYS  those of jobs.lua; publishes on wake
-- ARGV  2 the template of the history's reason, with {names}; then a MOVED_JOB for each move
-- Reply results, one character per move: 0 applied, 2 already, 3 refused, 4 missing

local LEVEL = 2 ^ 45

local moved, queues = {}, {}

-- Apply one move; the job's new place has the same order of arrival as the old one.
local function move(template, first)
  local id, from, at = ARGV[first + MOVED_JOB.id], ARGV[first + MOVED_JOB.states], ARGV[first + MOVED_JOB.at]
  local queue, priority = ARGV[first + MOVED_JOB.queue], ARGV[first + MOVED_JOB.priority]
  local reason = ARGV[first + MOVED_JOB.reason]
  if moved[id] then flush() end  -- each flush may contain a job only once
  local text = call('HGET', base .. 'jobs', id)
  if not text then return '4' end
  local job = read(id, text)
  if not find(from, job.state, 1, true) or is(job, 'b') then return '3' end
  local level, order = math.floor(job.place / LEVEL), job.place % LEVEL
  local priority_before = int(0 - level)
  if queue == '' then queue = job.queue end
  if priority == '' then priority = priority_before end
  if queue == job.queue and tonumber(priority) == tonumber(priority_before) then return '2' end
  local summary = string.gsub(template, '{([%w_]+)}', {
    before = job.queue, priority_before = priority_before, after = queue, priority = priority,
  })
  put(removes, 'l:' .. job.state .. ':' .. job.queue, id)
  local is_ready = job.state == 'E' and job.session == ''
  if is_ready then put(removes, standing(job)) end
  job.queue, job.place = queue, int(order - priority * LEVEL)
  job.history = job.history .. entry_line(job.state, at, '"' .. summary .. ': ' .. sub(reason, 2))
  add('l:' .. job.state .. ':' .. queue, job.changed, id)
  if is_ready then ready[#ready + 1] = job end
  save(job)
  moved[id], queues[queue] = true, true
  return '0'
end

local results = {}
for first = 3, #ARGV, MOVED_JOB.width do
  results[#results + 1] = move(ARGV[2], first)
end
for queue in pairs(queues) do call('SADD', base .. 'queues', queue) end
flush()
return table.concat(results)
