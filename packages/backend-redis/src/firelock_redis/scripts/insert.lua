-- Storing jobs of any kind, all of them or none. Behind library.lua, jobs.lua and children.lua.
--
-- KEYS  those of jobs.lua and children.lua; publishes on wake
-- ARGV  behind the verb's own parameters: for each job id, payload, state, queue, place of its priority, created_at, due_at
--       or nothing, reason as JSON or nothing, recurring job or nothing, what it asks before it starts or nothing, number of
--       tags, tags, number of parents, and for each parent: on and id

local verbs = {}

-- Read one job out of the arguments; return it and where the next one begins.
local function argued(at)
  local id, payload, state, queue, place, created, due, reason, recurring, asks = unpack(ARGV, at, at + 9)
  if asks ~= '' then asks = ' ' .. asks end
  local job = read(id, state .. '0 0 ' .. place .. ' ' .. queue .. ' \n0 0 0 -' .. asks .. '\n\n' .. created .. '\t\t\t\t\t' .. due
    .. '\t\t' .. reason .. '\t\t')
  job.payload, job.created, job.recurring, job.tags, job.parents = payload, created, recurring, {}, {}
  at = at + 10
  for number = 1, tonumber(ARGV[at]) do job.tags[number] = ARGV[at + number] end
  at = at + #job.tags + 1
  for number = 1, tonumber(ARGV[at]) do
    job.parents[number] = { on = ARGV[at + 2 * number - 1], id = ARGV[at + 2 * number] }
  end
  return job, at + 2 * #job.parents + 1
end

local function index(job)
  add('all', job.created, job.id)
  for _, tag in ipairs(job.tags) do add('t:' .. tag, job.created, job.id) end
  if job.recurring ~= '' then add('rj:' .. job.recurring, job.created, job.id) end
  for _, tie in ipairs(job.parents) do add('c:' .. tie.id, job.created, job.id) end
end

-- The parents of an awaiting job: each decides at once, or is marked and waited for.
local function tie(job, parents, now)
  local left = #job.parents
  local waiting = {}
  local function ties_left() left = left - 1 return left end
  for _, edge in ipairs(job.parents) do
    local parent = parents[edge.id]
    local target
    if FINAL[parent.state] then target = decide(job, edge.on, parent, job.created, now, ties_left) end
    if target == 'D' then return end
    if not target then waiting[#waiting + 1] = edge end
  end
  if job.state ~= 'W' then return end
  local ties = 0  -- a job may name one end of one parent twice
  for _, edge in ipairs(waiting) do
    local parent = parents[edge.id]
    ties = ties + call('ZADD', base .. 'pend:' .. edge.id, call('INCR', base .. 'ties'), edge.on .. ' ' .. job.id)
    if parent.flag == '' then
      parent.flag = '+'
      if not parent.is_new then save(parent) end
    end
  end
  if ties > 1 then call('SET', base .. 'n:' .. job.id, ties) end
end

-- The parents that the jobs name, by id: of this batch, or as stored. Return nil and the job and parent where one is not.
local function parents_of(jobs)
  local known = {}
  for _, job in ipairs(jobs) do
    for _, edge in ipairs(job.parents) do
      if not known[edge.id] then
        local text = call('HGET', base .. 'jobs', edge.id)
        if not text then return nil, { job.id, edge.id } end
        known[edge.id] = read(edge.id, text)
      end
    end
    job.is_new = true
    known[job.id] = job
  end
  return known
end

-- Store jobs from the arguments; return for each whether it is new, or nil, a job and its unknown parent.
local function store(first, count)
  local now = int(clock())
  local jobs, seen, answers = {}, {}, {}
  local at = first
  for number = 1, tonumber(count) do
    local job
    job, at = argued(at)
    local is_new = not seen[job.id] and call('HEXISTS', base .. 'jobs', job.id) == 0
    seen[job.id] = true
    answers[number] = is_new and 1 or 0
    if is_new then jobs[#jobs + 1] = job end
  end
  local parents, missing = parents_of(jobs)
  if not parents then return nil, missing end
  -- Also where none is new: a WAIT behind a script that has written nothing would vouch for nothing.
  local last = call('INCRBY', base .. 'seq', math.max(#jobs, 1))
  local payloads, queues = {}, {}
  for number, job in ipairs(jobs) do
    job.place = int(job.place + last - #jobs + number)
    if job.state == 'E' then job.enqueued = now end
    if #job.parents > 0 and job.state == 'W' then tie(job, parents, now) end
    if job.history == '' then job.history = step(job.state, job.created, job.reason) end
    payloads[2 * number - 1], payloads[2 * number] = job.id, job.payload
    queues[job.queue] = true
    index(job)
    save(job)
    enter(job)
  end
  many('HSET', base .. 'payloads', payloads)
  for queue in pairs(queues) do call('SADD', base .. 'queues', queue) end
  behind = {}  -- the order of the batch is that of its places
  flush()
  return answers
end

-- Rules say what follows from a parent's end (see children.lua), count is the number of jobs. Reply for each job 1 where
-- it is new, 0 where it was there; or nothing but a job's id and that of its unknown parent.
function verbs.jobs(rules, count)
  read_rules(rules)
  local answers, missing = store(5, count)
  return answers or missing
end

-- The jobs are stored if a record has the expected version, and it is replaced. Reply as `jobs` does, behind a 0; or but 1
-- where the record holds the new value and instant at the next version, else 2.
function verbs.jobs_if(rules, count, kind, key, value, expected, due_at, paused)
  local stored, version = stored_record(kind, key)
  if version ~= expected then
    if stored ~= int(expected + 1) .. ' ' .. due_at .. ' ' .. value then return { 2 } end
    call('INCR', base .. 'seq')  -- as in `store`: who asks again is told of replicas that have the record
    return { 1 }
  end
  read_rules(rules)
  local answers, missing = store(11, count)
  if not answers then return missing end
  put_record(stored, version, kind, key, value, due_at, paused)
  table.insert(answers, 1, 0)
  return answers
end

return run(verbs)
