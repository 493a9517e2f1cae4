-- Batches: what is known of them, and what their members add to their counts. Behind library.lua, in front of jobs.lua. It says
-- what firelock/storage/batches.py says, in one function, so that a call without batches makes one function more.
--
-- A batch is a job with the letter b, one of its members with the letter m; jobs.lua draws their records. Keys of a partition:
-- b:<batch> HASH its counts and flags, as NUMBERS and MARKS name them; bm:<batch> ZSET its members by their creation; changed ZSET
-- of batches that `release` has to look at, in the order in which something came of them. It decides them, and sweeps their members
-- or lets them in, by their places in bm:, where no member leaves before the batch has ended.
--
-- A member and its batch lie in one partition, so the counts is changed in the step that changes the member.

local made_batches

local function batches()
  if made_batches then return made_batches end

  local NUMBERS = { 'total', 'active', 'waiting', 'succeeded', 'failed', 'deleted', 'batches' }
  -- Marks, nothing where they do not hold: it waits for what it is after, or for the batch around it; is cancelled; is stopped by
  -- a failure; fails fast. Beside them the batch around it; for how many micros it stays by its end, - for ever; and the place in
  -- bm: up to which members have been swept or let in, nothing where none is to be.
  local MARKS = { 'shut', 'cancelled', 'stopping', 'fast', 'outer', 'keeps', 'walk' }
  local NAMED = {}
  for number, name in ipairs(NUMBERS) do NAMED[number] = name end
  for number, name in ipairs(MARKS) do NAMED[#NUMBERS + number] = name end
  local ENDS = { S = 'succeeded', F = 'failed', D = 'deleted' }

  local DUE = LAST.captures(due)

  local rows, touched, order = {}, {}, {}

  -- The batch of that id, false where none is stored.
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

  -- Something of the batch has changed.
  local function touch(id)
    if touched[id] then return end
    touched[id], order[#order + 1] = true, id
  end

  -- There is a new batch.
  local function found(id, row)
    for _, name in ipairs(NUMBERS) do row[name] = 0 end
    for _, name in ipairs(MARKS) do row[name] = row[name] or '' end
    rows[id] = row
    touch(id)
  end

  -- The batch is gone.
  local function forget(id)
    rows[id], touched[id] = false, nil
  end

  -- `release` goes through the members of the batch, from the first one.
  local function go_through(id)
    row_of(id).walk = '0'
    touch(id)
  end

  -- The state of the batch by its counts, W while it is open: see `batches.end_of`.
  local function end_of(row, is_held)
    if row.cancelled == '' and (is_held or row.shut ~= '') then return 'W' end
    if row.active > 0 or (row.waiting > 0 and row.cancelled .. row.stopping ~= '') then return 'W' end
    if row.cancelled ~= '' then return 'D' end
    return (row.failed > 0 or row.waiting > 0) and 'F' or 'S'
  end

  -- Whether the batch, whose record is this, is to be decided, or members of it are to be moved.
  local function has_news(row, text)
    local state = sub(text, 1, 1)
    if state == 'D' then return false end
    return row.cancelled ~= '' or row.stopping ~= '' or (row.walk ~= '' and row.shut == '')
      or end_of(row, state == 'W' and match(text, DUE) ~= '') ~= state
  end

  -- The batch waits for `release`, which may look at it already.
  local function note(id)
    if not call('ZSCORE', base .. 'changed', id) then call('ZADD', base .. 'changed', call('INCR', base .. 'ends'), id) end
  end

  local function is_noted(id)
    return call('ZSCORE', base .. 'changed', id) ~= false
  end

  -- What is changed is written. The records are written before.
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

  -- What the member adds to the counts.
  local function share(job)
    local state, row = job.state, find(job.flag, 'b', 1, true) and row_of(job.id)
    local waits = state == 'W' and job.waits == '' and not find(job.flag, 'o', 1, true)
    if row then waits = waits and row.shut ~= '' and row.cancelled == '' end
    local by_end = ENDS[state]
    local is_active = not by_end and not waits
    if by_end and find(job.flag, '+', 1, true) then is_active = call('ZSCORE', base .. 'releasing', job.id) end
    if job.session ~= '' and state ~= 'P' then is_active = true end
    local added = { total = 1, active = is_active and 1 or 0, waiting = waits and 1 or 0, succeeded = 0, failed = 0, deleted = 0,
      batches = find(job.flag, 'b', 1, true) and 1 or 0 }
    if by_end then added[by_end] = 1 end
    return added
  end

  local function text_in(said)
    return type(said) == 'string' and said or nil
  end

  -- Whether these are the rules of a batch: its name, whether it fails fast, and three times a number or null.
  local function are_rules(said)
    if type(said) ~= 'table' or type(said[RULES.name]) ~= 'string' then return false end
    for _, keep in ipairs({ said[RULES.succeeded], said[RULES.failed], said[RULES.deleted] }) do
      if keep ~= cjson.null and type(keep) ~= 'number' then return false end
    end
    return true
  end

  -- The parts that can be read, as `read_relations` in model/dependencies.py says; a text that cannot be read ends no script.
  local function read_relations(text)
    local is_read, said = pcall(cjson.decode, text or '[]')
    if not is_read or type(said) ~= 'table' then said = {} end
    local inputs = {}
    for _, input in ipairs(type(said[TIES.inputs]) == 'table' and said[TIES.inputs] or {}) do
      if type(input) == 'table' and type(input[INPUT.job]) == 'string' then inputs[#inputs + 1] = input end
    end
    local rules = are_rules(said[TIES.rules]) and said[TIES.rules] or nil
    return { batch = text_in(said[TIES.batch]), caller = text_in(said[TIES.caller]), inputs = inputs, rules = rules }
  end

  -- What ties the job to others: its batch, its caller, whose results it takes, and the rules of a batch; nil for none.
  local function ties_of(job)
    if not job.ties then
      local payload = call('HGET', base .. 'payloads', job.id) or ''
      local rare = match(payload, PAYLOAD.captures(rarer))
      local is_read, fields = pcall(cjson.decode, rare ~= '' and rare or '[]')
      job.ties = read_relations(is_read and type(fields) == 'table' and text_in(fields[RARER.relations_json]))
    end
    return job.ties
  end

  -- The job, a new one, is tied so.
  local function tie(job, text)
    local ties = read_relations(text)
    job.ties = ties
    job.flag = (ties.rules and 'b' or '') .. (ties.batch and 'm' or '') .. (ties.caller and 'c' or '') .. (ties.inputs[1] and 'i' or '')
    if ties.batch then
      job.was = {}
      for _, name in ipairs(NUMBERS) do job.was[name] = 0 end
    end
  end

  -- The counts has what the member adds now instead of what it added before.
  local function count(job)
    local id, after = ties_of(job).batch, share(job)
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

  -- Until it has ended the job keeps the results that it takes: in:<parent> SET of those jobs.
  local function follow_inputs(job)
    for _, input in ipairs(ties_of(job).inputs) do
      local key = base .. 'in:' .. input[INPUT.job]
      if ENDS[job.state] then call('SREM', key, job.id) else call('SADD', key, job.id) end
    end
  end

  -- ---- its life ----------------------------------------------------------------------------------------------------

  -- Whatever it is after has come: its members may run.
  local function open(id)
    row_of(id).shut = ''
    go_through(id)
  end

  -- Somebody runs a member of the batch again: no failure that was before stops it, nor those around it.
  local function calm(id)
    while id and id ~= '' do
      local row = row_of(id)
      if not row then return end
      if row.stopping ~= '' then
        row.stopping = ''
        go_through(id)  -- whom nobody has let in yet
      end
      id = row.outer
    end
  end

  -- Whether this batch is cancelled, or one around it.
  local function is_cancelled_around(id)
    while id and id ~= '' do
      local row = row_of(id)
      if not row or row.cancelled ~= '' then return row ~= false end
      id = row.outer
    end
    return false
  end

  -- When the batch may be pruned that ends so at this instant, nothing for never.
  local function expiry(row, state, at)
    local keep = select(state == 'S' and 1 or state == 'F' and 2 or 3, match(row.keeps, '^(%S+) (%S+) (%S+)$'))
    return keep == '-' and '' or int(at + keep)
  end

  made_batches = {
    row_of = row_of, found = found, forget = forget, touch = touch, store = store, share = share, ties_of = ties_of, tie = tie, count = count,
    note = note, is_noted = is_noted, open = open, calm = calm, is_cancelled_around = is_cancelled_around, end_of = end_of, expiry = expiry,
    go_through = go_through, follow_inputs = follow_inputs,
  }
  return made_batches
end
