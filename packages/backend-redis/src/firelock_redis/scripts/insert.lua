-- Store jobs of any kind: either all of them or none. Included after library.lua, batches.lua, jobs.lua, children.lua,
-- record.lua, unique.lua and duplicates.lua.
--
-- KEYS  those of jobs.lua and children.lua; publishes on wake
-- ARGV  after the verb's parameters, for each job: an ANY_JOB, its tags, the number of its parents, and a NEW_EDGE for
--       each parent

local verbs = {}

-- Read one job from the arguments; return this job and the position of the next one.
local function argued(at)
  local admission, relations = ARGV[at + ANY_JOB.admission], ARGV[at + ANY_JOB.relations]
  local created, count = ARGV[at + ANY_JOB.created], ARGV[at + ANY_JOB.tags]
  local job = {
    id = ARGV[at + ANY_JOB.id], payload = ARGV[at + ANY_JOB.payload], created = created,
    recurring = ARGV[at + ANY_JOB.recurring], state = ARGV[at + ANY_JOB.state], flag = '', attempt = '0', fence = '0',
    place = ARGV[at + ANY_JOB.lowest], queue = ARGV[at + ANY_JOB.queue], session = '', retries = '0', crashes = '0',
    enqueued = '0', origin = '-', admission = admission ~= '' and ' ' .. admission or '', error = '', history = '',
    changed = created, claimed = '', started = '', ended = '', expires = '', due = ARGV[at + ANY_JOB.due], server = '',
    reason = ARGV[at + ANY_JOB.reason], result = '', absent = '', waits = '', tags = {}, parents = {},
  }
  if relations ~= '' then batches().relate(job, relations) end
  at = at + ANY_JOB.width
  for number = 1, tonumber(count) do job.tags[number] = ARGV[at + number - 1] end
  at = at + #job.tags
  count = tonumber(ARGV[at])
  at = at + 1
  for number = 1, count do
    job.parents[number] = { on = ARGV[at + NEW_EDGE.on], id = ARGV[at + NEW_EDGE.id] }
    at = at + NEW_EDGE.width
  end
  return job, at
end

-- Add the member to the list of its batch; if a failure is stopping the batch, `release` must stop this member too.
local function index_member(job)
  local id = job.relations.batch
  local row = batches().row_of(id)
  add('bm:' .. id, job.created, job.id)
  if row.stopping ~= '' then batches().go_through(id) end
end

local function index(job)
  add('all', job.created, job.id)
  for _, tag in ipairs(job.tags) do add('t:' .. tag, job.created, job.id) end
  if job.recurring ~= '' then add('rj:' .. job.recurring, job.created, job.id) end
  if is(job, 'm') then index_member(job) end
  for _, edge in ipairs(job.parents) do add('c:' .. edge.id, job.created, job.id) end
end

-- Handle the parents of an awaiting job: apply the effects of parents that have already ended. Mark each other parent
-- as having children, and make the job wait for it.
local function add_edges(job, parents, now)
  local left = #job.parents
  local waiting = {}
  local function edges_left() left = left - 1 return left end
  for _, edge in ipairs(job.parents) do
    local parent = parents[edge.id]
    local target
    if FINAL[parent.state] then target = decide(job, edge.on, parent, job.created, now, edges_left) end
    if target == 'D' then return end
    if not target then waiting[#waiting + 1] = edge end
  end
  if job.state ~= 'W' then return end
  local edges = 0  -- a job can name the same parent twice with the same condition
  for _, edge in ipairs(waiting) do
    local parent = parents[edge.id]
    edges = edges + call('ZADD', base .. 'pend:' .. edge.id, call('INCR', base .. 'edges'), edge.on .. ' ' .. job.id)
    if not is(parent, '+') then
      parent.flag = '+' .. parent.flag
      if not parent.is_new then save(parent) end
    end
  end
  job.edges_left = edges
  if edges > 1 then call('SET', base .. 'n:' .. job.id, edges) end
end

local known = {}  -- the jobs of this call, and stored jobs with the changes of this script, by id

-- Return the job with this id, false if it is not stored.
local function job_at(id)
  if known[id] == nil then
    local text = call('HGET', base .. 'jobs', id)
    known[id] = text and read(id, text)
  end
  return known[id]
end

-- Check the parents and batches of the jobs. Return nil if all jobs can be stored. Otherwise return the reason with the
-- ids involved: a job and its parent or batch that is not stored, or a job and its batch that has ended or is
-- cancelled.
local function find_others(jobs)
  for _, job in ipairs(jobs) do
    known[job.id] = nil
  end
  for _, job in ipairs(jobs) do
    for _, edge in ipairs(job.parents) do
      if not job_at(edge.id) then return { 'missing', job.id, edge.id } end
    end
    local id = job.relations and job.relations.batch
    local batch = id and job_at(id)
    if id and not (batch and is(batch, 'b') and (batch.is_new or batches().row_of(id))) then return { 'missing', job.id, id } end
    if id and not batch.is_new and (FINAL[batch.state] or batches().row_of(id).cancelled ~= '') then
      return { 'finished', job.id, id }
    end
    known[job.id] = job
  end
end

-- Store the counts of a new batch; it is unopened if it waits for parents.
local function begin_counting(job)
  local rules, keeps = job.relations.rules, {}
  for number, keep in ipairs({ rules[RULES.succeeded], rules[RULES.failed], rules[RULES.deleted] }) do keeps[number] = keep == cjson.null and '-' or int(keep) end
  batches().found(job.id, {
    fast = rules[RULES.fast] ~= 0 and '1' or '', outer = job.relations.batch or '', keeps = table.concat(keeps, ' '),
    unopened = #job.parents > 0 and '1' or '',
  })
end

local changed = {}  -- stored jobs that calls have changed, each with its previous list and tags, by id

-- Apply a call to the job that has its unique key: postpone the job, or replace its arguments.
local function change_holder(holder, row, job, use, keys, now)
  if not keys.is_changeable(row, holder) then return end
  local payload = holder.payload or call('HGET', base .. 'payloads', holder.id)
  if not payload then return end
  local due = keys.debounced_due(use, holder, match(payload, PAYLOAD.captures(created)))
  if not due and not use[UNIQUE.keeps_last] then return end
  if not holder.is_new and not changed[holder.id] then
    local list, member
    if holder.state == 'E' then list, member = standing(holder) end
    changed[holder.id] = { job = holder, list = list, member = member }
  end
  if due then holder.due = due end
  if use[UNIQUE.keeps_last] then
    if not holder.tags then
      local fields = optional_fields(holder.id)
      holder.tags, holder.created = fields and fields[OPTIONAL.tags] or {}, match(payload, PAYLOAD.captures(created))
      changed[holder.id].tags = holder.tags
    end
    holder.payload, holder.tags = replaced_payload(payload, job.payload), job.tags
    holder.admission = replaced_admission(holder.admission, job.admission)
    holder.place = int(job.place + holder.place % 2 ^ 45)
  end
  if holder.history == '' and holder.is_new then holder.history = entry_line(holder.state, holder.created, holder.reason) end
  add_duplicate(holder, now)
end

-- Prepare writing the stored jobs that calls have changed; they are written together with the new jobs.
local function keep_changes(payloads)
  for id, before in pairs(changed) do
    local job = before.job
    if before.list then
      put(removes, before.list, before.member)
      ready[#ready + 1] = job
    end
    if job.due ~= '' then add('due', job.due, id) end
    for _, tag in ipairs(before.tags or {}) do put(removes, 't:' .. tag, id) end
    for _, tag in ipairs(job.tags or {}) do add('t:' .. tag, job.created, id) end
    if job.payload then payloads[#payloads + 1], payloads[#payloads + 2] = id, job.payload end
    save(job)
  end
end

-- Store the jobs in the arguments. Return for each job 1 if it is new, 0 if it was stored before, or the id of the job
-- that has its unique key. If nothing was stored, return nil and the reason. If `is_judged_only`, only check the jobs,
-- and do not store anything.
local function store(first, count, is_judged_only)
  local now = int(clock())
  local jobs, answers, keys = {}, {}, nil
  local at = first
  for number = 1, tonumber(count) do
    local job
    job, at = argued(at)
    local is_new = not (known[job.id] and known[job.id].is_new) and call('HEXISTS', base .. 'jobs', job.id) == 0
    answers[number] = is_new and 1 or 0
    local use = is_new and job.admission ~= '' and admission_of(job.admission).unique
    if use then
      keys = keys or unique_keys(tonumber(now), job_at)
      local id, holder, row, why = keys.take_key(job, use)
      if id then
        if why ~= '' then return nil, { 'duplicate', job.id, id, why } end
        if holder then change_holder(holder, row, job, use, keys, now) end
        answers[number], is_new = id, false
      end
    end
    if is_new then
      job.is_new = true
      known[job.id] = job
      if job.state == 'E' then job.enqueued = now end
      jobs[#jobs + 1] = job
    end
  end
  local why = find_others(jobs)
  if why then return nil, why end
  if is_judged_only then return answers end
  -- Write something even if no job is new, because a WAIT after a script without writes would not confirm anything.
  local last = call('INCRBY', base .. 'seq', math.max(#jobs, 1))
  local payloads, queues = {}, {}
  for number, job in ipairs(jobs) do
    job.place = int(job.place + last - #jobs + number)
    if is(job, 'b') then begin_counting(job) end
    if #job.parents > 0 and job.state == 'W' then add_edges(job, known, now) end
    if is(job, 'm') and (job.edges_left or 0) == 0 then wait_for_batch(job) end
    if job.history == '' then job.history = entry_line(job.state, job.created, job.reason) end
    payloads[2 * number - 1], payloads[2 * number] = job.id, job.payload
    queues[job.queue] = true
    index(job)
    save(job)
    enter(job)
  end
  if keys then
    keep_changes(payloads)
    keys.store()
  end
  many('HSET', base .. 'payloads', payloads)
  for queue in pairs(queues) do call('SADD', base .. 'queues', queue) end
  at_back = {}  -- the jobs keep the places that were assigned above
  flush()
  return answers
end

-- Store jobs. `rules` are the effects of a parent's end (see children.lua), `count` is the number of jobs. Return the
-- result of `store` for each job. If nothing was stored, return a single list instead: `missing` and the ids of a job
-- and of its unknown parent or batch; `finished` and the ids of a job and of its batch; or `duplicate`, the ids of a
-- job and of the job that has its unique key, and `raises` or `deleted`.
function verbs.jobs(rules, count)
  read_rules(rules)
  local answers, why = store(5, count)
  return answers or { why }
end

-- Return the result that `jobs` would have, without storing anything.
function verbs.judged(count)
  local answers, why = store(4, count, true)
  return answers or { why }
end

-- Store the jobs and replace the record if it has the expected version. Return 0, followed by the reply of `jobs`.
-- If it has another version, return only 1 if it is the next version with the new value and due time, otherwise 2.
function verbs.jobs_if(rules, count, kind, key, value, expected, due_at, copied)
  local stored, version = stored_record(kind, key)
  if version ~= expected then
    if stored ~= int(expected + 1) .. ' ' .. due_at .. ' ' .. value then return { 2 } end
    call('INCR', base .. 'seq')  -- as in `store`: a WAIT after a repeated call confirms that replicas have the record
    return { 1 }
  end
  read_rules(rules)
  local answers, why = store(11, count)
  if not answers then return { why } end
  put_record(stored, version, kind, key, value, due_at, copied)
  table.insert(answers, 1, 0)
  return answers
end

return run(verbs)
