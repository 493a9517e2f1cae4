-- Queries of jobs, except for pages, which find.lua reads. Included after library.lua.
--
-- KEYS  those of jobs.lua, of sessions.lua: sx ending living, of records.lua: paused

local verbs = {}

-- Return as many of the requested jobs as fit into a megabyte, but at least one. ARGV from 3: ids. Return a FOUND for
-- each job in the requested order, with nil for an unknown job. If the reply has fewer jobs, the last ones were left
-- out.
function verbs.get()
  local reply, size = {}, 0
  for first = 3, #ARGV, 10 do
    if size > 1000000 then break end
    local last = math.min(first + 9, #ARGV)
    local records = call('HMGET', base .. 'jobs', unpack(ARGV, first, last))
    local payloads = call('HMGET', base .. 'payloads', unpack(ARGV, first, last))
    local keys = {}
    for place = first, last do keys[place - first + 1] = base .. 'o:' .. ARGV[place] end
    local progress = call('MGET', unpack(keys))
    for number, text in ipairs(records) do
      local payload, before = payloads[number], FOUND.width * (first - 3 + number - 1)
      reply[before + FOUND.record], reply[before + FOUND.payload], reply[before + FOUND.progress] = text, payload, progress[number]
      size = size + #(text or '') + #(payload or '')
    end
  end
  return reply
end

-- Return the failed attempts of a job, oldest first, each as its number, a tab, and a `FAILURE` of
-- layout/encoding.py.
function verbs.errors(id)
  return call('LRANGE', base .. 'e:' .. id, 0, -1)
end

-- Return the number of jobs in each state, by queue. ARGV from 3: queues, none for all. The reply begins with a list of
-- the queues for the next call. For each of the others, it contains the name and the numbers of its awaiting,
-- scheduled, enqueued, succeeded, failed, deleted and processing jobs.
function verbs.counts(first)
  local names = first and words_from(3) or call('SMEMBERS', base .. 'queues')
  local reply, later = {}, {}
  for place, queue in ipairs(names) do
    if place > 400 then
      later[#later + 1] = queue
    else
      local numbers = { queue }
      for state in string.gmatch('WCESFD', '.') do
        numbers[#numbers + 1] = call('ZCARD', base .. 'l:' .. state .. ':' .. queue)
      end
      numbers[#numbers + 1] = tonumber(call('HGET', base .. 'running', queue) or 0)
      reply[#reply + 1] = numbers
    end
  end
  return { later, reply }
end

-- Group failed jobs by the fingerprint of their last error; skip jobs without one. ARGV from 3: ids. Return for each
-- group: the fingerprint, the number of jobs, and the position of its first job among the ids.
function verbs.failures()
  local function fingerprint(text)
    local state, line = match(text, RECORD.captures(state, error))
    if state ~= 'F' or line == '' then return nil end
    local plain = match(line, ', ?"([^"\\]*)"%]$')
    if plain then return plain end
    local is_read, fields = pcall(cjson.decode, line)
    return is_read and type(fields) == 'table' and type(fields[ERROR.fingerprint]) == 'string' and fields[ERROR.fingerprint] or nil
  end
  local reply, groups = {}, {}
  for number, text in ipairs(call('HMGET', base .. 'jobs', unpack(ARGV, 3))) do
    local mark = text and fingerprint(text)
    local group = mark and groups[mark]
    if group then
      group[2] = group[2] + 1
    elseif mark then
      group = { mark, 1, number - 1 }
      groups[mark] = group
      reply[#reply + 1] = group
    end
  end
  return reply
end

-- Return the lengths of lists of jobs, so that the caller can choose which of them to read. `states` contains the
-- letters of the states whose lists are requested. `queue` is = followed by the queue of these lists, or empty for the
-- lists of every queue. ARGV from 5: names of other lists. Return the length of each of these other lists; then the
-- name and length of each list of the states that is not empty.
function verbs.lists(states, queue)
  local reply = {}
  for number = 5, #ARGV do reply[#reply + 1] = call('ZCARD', base .. ARGV[number]) end
  local function add_length(name)
    local length = call('ZCARD', base .. name)
    if length > 0 then
      reply[#reply + 1] = name
      reply[#reply + 1] = length
    end
  end
  local queues = {}
  if queue ~= '' then
    queues[1] = sub(queue, 2)
  elseif states ~= '' and states ~= 'P' then
    queues = call('SMEMBERS', base .. 'queues')
  end
  for state in string.gmatch(states, '.') do
    if state ~= 'P' then
      for _, name in ipairs(queues) do add_length('l:' .. state .. ':' .. name) end
    elseif queue == '' or call('HGET', base .. 'running', queues[1]) then
      -- Add the jobs of every session that might hold one here: living sessions, and dead sessions until all their jobs
      -- are taken.
      for _, sessions in ipairs({
        call('SMEMBERS', base .. 'living'), call('ZRANGE', base .. 'sx', 0, -1), call('ZRANGE', base .. 'ending', 0, -1),
      }) do
        for _, session in ipairs(sessions) do add_length('held:' .. session) end
      end
    end
  end
  return reply
end

local function is_ready(queue)
  return call('EXISTS', base .. 'r:' .. queue, base .. 'ring:' .. queue) > 0
    and call('SISMEMBER', base .. 'paused', queue) == 0
end

local function is_any_ready(queues)
  for _, queue in ipairs(queues) do
    if is_ready(queue) then return true end
  end
  return false
end

local function every_queue()
  local names = call('SMEMBERS', base .. 'work')
  for _, queue in ipairs(call('SMEMBERS', base .. 'laned')) do names[#names + 1] = queue end
  return names
end

-- Return 1 if a claim might find a job, else 0. ARGV from 3: the queues, none for all queues.
function verbs.ready(first)
  return is_any_ready(first and words_from(3) or every_queue()) and 1 or 0
end

-- Return the reply of a claim that finds no jobs: an empty string, the next due time or an empty string, and 1 if the
-- session is lost. Return an empty list if a claim might find a job. ARGV from 4: the queues, none for all queues.
function verbs.idle(session, first)
  local is_lost = call('HGET', base .. 's:' .. session, 'alive') ~= '1'
  if not is_lost and is_any_ready(first and words_from(4) or every_queue()) then return {} end
  return { '', next_due(), is_lost and '1' or '' }
end

return run(verbs)
