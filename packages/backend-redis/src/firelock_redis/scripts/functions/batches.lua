-- Batches: their counts and flags, and the contribution of each member to the counts. Included after library.lua and
-- before jobs.lua. This file implements firelock/storage/batches.py in one function, so that a call without batches
-- creates only one additional function.
--
-- A batch is a job with the flag b, and each of its members has the flag m; jobs.lua reads and writes their records.
-- Keys of a partition:
--   b:<batch> HASH: its counts and flags, with the names in NUMBERS and MARKS
--   bm:<batch> ZSET: its members, by creation time
--   changed ZSET: the batches that `release` must check, in the order in which they changed
-- `release` determines the state of these batches, and sweeps or resumes their members in the order of bm:. Members
-- stay in bm: at least until the batch has ended.
--
-- A member and its batch are in one partition, so the script that changes the member also changes the counts.

local made_batches

local function batches()
  if made_batches then return made_batches end

  local NUMBERS = { 'total', 'active', 'waiting', 'succeeded', 'failed', 'deleted', 'batches' }
  -- Flags are empty if they are not set; the last three fields are not flags:
  --   unopened: the batch has not opened, because it waits for its parents or for its outer batch
  --   cancelled: the batch is cancelled
  --   stopping: a failure stops the batch
  --   fast: the batch fails fast
  --   outer: the outer batch
  --   keeps: the retention in microseconds for each final state, - to keep the batch forever
  --   walk: the place in bm: up to which members have been swept or resumed, empty if no member must be swept or resumed
  local MARKS = { 'unopened', 'cancelled', 'stopping', 'fast', 'outer', 'keeps', 'walk' }
  local NAMED = {}
  for number, name in ipairs(NUMBERS) do NAMED[number] = name end
  for number, name in ipairs(MARKS) do NAMED[#NUMBERS + number] = name end
  local ENDS = { S = 'succeeded', F = 'failed', D = 'deleted' }

  local DUE = LAST.captures(due)

  local rows, touched, order = {}, {}, {}

  -- Return the batch with this id, false if it is not stored.
  local function row_of(id)
    local row = rows[id]
    if row == nil then
      local fields = call('HMGET', base .. 'b:' .. id, unpack(NAMED))
      row = fields[1] and {} or false
      if row then
        for number, name in ipairs(NUMBERS) do row[name] = tonumber(fields[number]) end
        for number, name in ipairs(MARKS) do row[name] = fields[#NUMBERS + number] or '' end
      end
      rows[id] = row
    end
    return row
  end

  -- Note that the batch has changed.
  local function touch(id)
    if touched[id] then return end
    touched[id], order[#order + 1] = true, id
  end

  -- Add a new batch.
  local function found(id, row)
    for _, name in ipairs(NUMBERS) do row[name] = 0 end
    for _, name in ipairs(MARKS) do row[name] = row[name] or '' end
    rows[id] = row
    touch(id)
  end

  -- Forget a batch that is about to be deleted.
  local function forget(id)
    rows[id], touched[id] = false, nil
  end

  -- Let `release` check all members of the batch, starting with the first one.
  local function go_through(id)
    row_of(id).walk = '0'
    touch(id)
  end

  -- Return the state that the counts of the batch imply, W if it is open; see `batches.end_of`.
  local function end_of(row, is_held)
    if row.cancelled == '' and (is_held or row.unopened ~= '') then return 'W' end
    if row.active > 0 or (row.waiting > 0 and row.cancelled .. row.stopping ~= '') then return 'W' end
    if row.cancelled ~= '' then return 'D' end
    return (row.failed > 0 or row.waiting > 0) and 'F' or 'S'
  end

  -- Return whether `release` must determine the state of the batch with this record, or change its members.
  local function has_news(row, text)
    local state = sub(text, 1, 1)
    if state == 'D' then return false end
    return row.cancelled ~= '' or row.stopping ~= '' or (row.walk ~= '' and row.unopened == '')
      or end_of(row, state == 'W' and match(text, DUE) ~= '') ~= state
  end

  -- Add the batch to the list of `release`, unless the list already contains it.
  local function note(id)
    if not call('ZSCORE', base .. 'changed', id) then call('ZADD', base .. 'changed', call('INCR', base .. 'ends'), id) end
  end

  local function is_noted(id)
    return call('ZSCORE', base .. 'changed', id) ~= false
  end

  -- Write the changed batches. Their records must already be written.
  local function store()
    for _, id in ipairs(order) do
      local row, fields = rows[id], {}
      if row then
        for number, name in ipairs(NAMED) do fields[2 * number - 1], fields[2 * number] = name, row[name] end
        call('HSET', base .. 'b:' .. id, unpack(fields))
        local text = call('HGET', base .. 'jobs', id)
        if text and has_news(row, text) then note(id) end
      end
    end
    touched, order = {}, {}
  end

  -- ---- members -----------------------------------------------------------------------------------------------------

  -- Return the contribution of the member to the counts.
  local function share(job)
    local state, row = job.state, find(job.flag, 'b', 1, true) and row_of(job.id)
    local waits = state == 'W' and job.waits == '' and not find(job.flag, 'o', 1, true)
    if row then waits = waits and row.unopened ~= '' and row.cancelled == '' end
    local by_end = ENDS[state]
    local is_active = not by_end and not waits
    if by_end and find(job.flag, '+', 1, true) then is_active = call('ZSCORE', base .. 'releasing', job.id) end
    if job.session ~= '' and state ~= 'P' then is_active = true end
    local added = { total = 1, active = is_active and 1 or 0, waiting = waits and 1 or 0, succeeded = 0, failed = 0, deleted = 0,
      batches = find(job.flag, 'b', 1, true) and 1 or 0 }
    if by_end then added[by_end] = 1 end
    return added
  end

  local function text_in(value)
    return type(value) == 'string' and value or nil
  end

  -- Return whether these values are the rules of a batch: its name, whether it fails fast, and three numbers or nulls.
  local function are_rules(decoded)
    if type(decoded) ~= 'table' or type(decoded[RULES.name]) ~= 'string' then return false end
    for _, keep in ipairs({ decoded[RULES.succeeded], decoded[RULES.failed], decoded[RULES.deleted] }) do
      if keep ~= cjson.null and type(keep) ~= 'number' then return false end
    end
    return true
  end

  -- Return the readable relations, as `read_relations` in model/dependencies.py does; an unreadable string must not
  -- make the script fail.
  local function read_relations(text)
    local is_read, decoded = pcall(cjson.decode, text or '[]')
    if not is_read or type(decoded) ~= 'table' then decoded = {} end
    local inputs = {}
    for _, input in ipairs(type(decoded[RELATIONS.inputs]) == 'table' and decoded[RELATIONS.inputs] or {}) do
      if type(input) == 'table' and type(input[INPUT.job]) == 'string' then inputs[#inputs + 1] = input end
    end
    local rules = are_rules(decoded[RELATIONS.rules]) and decoded[RELATIONS.rules] or nil
    return { batch = text_in(decoded[RELATIONS.batch]), caller = text_in(decoded[RELATIONS.caller]), inputs = inputs, rules = rules }
  end

  -- Return the relations of the job: its batch, its caller, the inputs that it gets from other jobs, and the rules of a
  -- batch; nil for each that is missing.
  local function relations_of(job)
    if not job.relations then
      local payload = call('HGET', base .. 'payloads', job.id) or ''
      local optional = match(payload, PAYLOAD.captures(optional))
      local is_read, fields = pcall(cjson.decode, optional ~= '' and optional or '[]')
      job.relations = read_relations(is_read and type(fields) == 'table' and text_in(fields[OPTIONAL.relations_json]))
    end
    return job.relations
  end

  -- Set the relations of a new job, and the flags that depend on them.
  local function relate(job, text)
    local relations = read_relations(text)
    job.relations = relations
    job.flag = (relations.rules and 'b' or '') .. (relations.batch and 'm' or '') .. (relations.caller and 'c' or '') .. (relations.inputs[1] and 'i' or '')
    if relations.batch then
      job.was = {}
      for _, name in ipairs(NUMBERS) do job.was[name] = 0 end
    end
  end

  -- Add the current contribution of the member to the counts, and subtract its previous contribution.
  local function count(job)
    local id, after = relations_of(job).batch, share(job)
    local row = id and row_of(id)
    if row then
      for _, name in ipairs(NUMBERS) do
        local change = after[name] - job.was[name]
        if change ~= 0 then
          row[name] = row[name] + change
          touch(id)
        end
      end
      if after.failed > job.was.failed and row.fast ~= '' then
        row.stopping = '1'
        go_through(id)
      end
    end
    job.was = after
  end

  -- Store that the job uses these results, so that they are kept until the job has ended. in:<parent> is the SET of
  -- jobs that use a parent's result.
  local function follow_inputs(job)
    for _, input in ipairs(relations_of(job).inputs) do
      local key = base .. 'in:' .. input[INPUT.job]
      if ENDS[job.state] then call('SREM', key, job.id) else call('SADD', key, job.id) end
    end
  end

  -- ---- changes of a batch ------------------------------------------------------------------------------------------

  -- Open the batch, because all jobs for which it waited have ended. Its members may now run.
  local function open(id)
    row_of(id).unopened = ''
    go_through(id)
  end

  -- Clear the flag stopping of the batch and its outer batches, because a person runs a member again: earlier failures
  -- must no longer stop these batches.
  local function calm(id)
    while id and id ~= '' do
      local row = row_of(id)
      if not row then return end
      if row.stopping ~= '' then
        row.stopping = ''
        go_through(id)  -- resumes the members that still wait for the batch
      end
      id = row.outer
    end
  end

  -- Return whether this batch or one of its outer batches is cancelled.
  local function is_cancelled_around(id)
    while id and id ~= '' do
      local row = row_of(id)
      if not row or row.cancelled ~= '' then return row ~= false end
      id = row.outer
    end
    return false
  end

  -- Return the time from which a batch that ends in this state at this time may be pruned, or an empty string for
  -- never.
  local function expiry(row, state, at)
    local keep = select(state == 'S' and 1 or state == 'F' and 2 or 3, match(row.keeps, '^(%S+) (%S+) (%S+)$'))
    return keep == '-' and '' or int(at + keep)
  end

  made_batches = {
    row_of = row_of, found = found, forget = forget, touch = touch, store = store, share = share, relations_of = relations_of, relate = relate, count = count,
    note = note, is_noted = is_noted, open = open, calm = calm, is_cancelled_around = is_cancelled_around, end_of = end_of, expiry = expiry,
    go_through = go_through, follow_inputs = follow_inputs,
  }
  return made_batches
end
