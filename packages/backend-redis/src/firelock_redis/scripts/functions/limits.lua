-- Limits: the jobs that may start, and the jobs that hold a key. Included after library.lua and jobs.lua. This is the
-- Lua implementation of the rules that firelock/limits/admission.py implements for other storages. Everything except
-- the order of claims is in one function, because claims of jobs without limits need only that order.
--
-- Each limit key has a list of jobs, and the records of these jobs determine whether they hold the key. So a job that
-- ends does not need to release the key.
--   slots:<key> SET: the jobs that were claimed with a key while it limited concurrent jobs; ! follows the id of a job
--     that keeps the key between its attempts. Jobs that no longer hold the key are removed as soon as the list delays
--     a start.
--   arrivals HASH: key -> next_arrival_at: the time up to which the key's rate is used, or until which the key is
--     blocked
--   limits HASH: key or name of keys -> "concurrent rate per burst paused", - for a missing setting; a copy of the
--     records of kind limit
--   short HASH: key -> the queue whose jobs could not be claimed because too many jobs hold the key, * for several
--     queues
--   cut HASH: queue -> the number of lanes that claims have checked in a row without finding a job while there were
--     more lanes
--   odd: the number of times that jobs with and without limits have shared an odd number of places in a claim

-- The tasks that a claim skips; nil if it accepts jobs of every task.
local leaving_out

-- Skip the tasks whose payloads start with one of these strings. Because all other calls wait while a script runs, only
-- the first jobs of each queue are checked. The total for all queues is `EXAMINED` jobs without limits and the same
-- number of jobs in lanes, or fewer if their payloads are large.
local function leave_out(first, count)
  local EXAMINED, AT_ONCE, BYTES = 1000, 50, 4000000
  local heads, bytes, HEAD = {}, 0, '^[^\t]*\t'  -- the start of a payload up to the end of its first field, the task
  for place = first, first + count - 1 do heads[ARGV[place]] = true end
  leaving_out = {}

  function leaving_out.share(queues)
    return math.max(1, math.floor(EXAMINED / math.max(1, queues)))
  end

  -- Return the set of jobs that may be taken.
  function leaving_out.open(ids)
    local open = {}
    if #ids == 0 then return open end
    for number, payload in ipairs(call('HMGET', base .. 'payloads', unpack(ids))) do
      bytes = bytes + (payload and #payload or 0)
      if not payload or not heads[match(payload, HEAD)] then open[ids[number]] = true end
    end
    return open
  end

  -- Return whether the claim has read the maximum number of bytes of payloads and must not check more jobs.
  function leaving_out.is_over()
    return bytes > BYTES
  end

  -- Return up to `limit` jobs that may be taken, in the order of the list; check at most `depth` jobs.
  function leaving_out.first_of(key, limit, depth)
    local found, seen = {}, 0
    while #found < limit and seen < depth and not leaving_out.is_over() do
      local ids = call('ZRANGE', base .. key, seen, math.min(seen + AT_ONCE, depth) - 1)
      if #ids == 0 then break end
      local open = leaving_out.open(ids)
      for _, id in ipairs(ids) do
        if open[id] and #found < limit then found[#found + 1] = id end
      end
      seen = seen + #ids
    end
    return found
  end
end

-- Return the ids of a claim in the order in which they must run. If the queues take turns, each round has one job of
-- each queue, and the queue of the last job is stored. Otherwise, the jobs are ordered by queue.
local function in_order(names, lines, in_turn)
  local ids, most, last = {}, 0, nil
  if not in_turn then
    for _, line in ipairs(lines) do
      for _, id in ipairs(line) do ids[#ids + 1] = id end
    end
    return ids
  end
  for _, line in ipairs(lines) do most = math.max(most, #line) end
  for round = 1, most do
    for number, line in ipairs(lines) do
      if line[round] then
        ids[#ids + 1] = line[round]
        last = names[number]
      end
    end
  end
  if last and #names > 1 then call('SET', base .. 'served', last) end
  return ids
end

local function limits()
  local WINDOW, FEWEST_READ = 256, 8  -- maximum number of lanes per claim, and minimum number that are read together
  local FEW = 64  -- if at most this many limits are stored, all of them are read, including those that are not needed
  local floor, max, min = math.floor, math.max, math.min
  local NONE = { interval = 0, burst_units = 1 }
  local parsed, usages = {}, {}
  local next_claim_at
  local now

  -- ---- keys ----------------------------------------------------------------------------------------------------

  -- Return the name whose settings apply to a key without its own settings: tenant:7/openai -> tenant/openai.
  local function name_of(key)
    if not find(key, ':', 1, true) then return key end
    return (string.gsub(key, ':[^/]*', ''))
  end

  -- Append the keys of a lane to a list.
  local function add_keys(keys, name)
    if not find(name, '\n', 1, true) then
      keys[#keys + 1] = name
      return
    end
    for key in string.gmatch(name, '[^\n]+') do keys[#keys + 1] = key end
  end

  local function read_settings(text)
    if not text then return NONE end
    local settings = parsed[text]
    if not settings then
      local concurrent, rate, per, burst, paused =
        match(text, LIMIT_SETTINGS.captures(concurrent, rate, per, burst, paused))
      rate, burst = tonumber(rate), tonumber(burst)
      settings = { concurrent = tonumber(concurrent), rate = rate, is_paused = paused == '1' }
      settings.interval = rate and rate > 0 and per / rate or 0
      settings.burst_units = max(1, burst or (settings.interval > 0 and 1000000 / settings.interval or 1))
      settings.has_any = settings.concurrent or rate
      parsed[text] = settings
    end
    return settings
  end

  local stored  -- settings by key and name if there are few limits, else false; nil before they are read

  -- Read the use of these keys, except for keys that were read before. A usage is false if the key has no limit.
  -- Otherwise it has these fields: settings; next_arrival_at, see limits/settings.py; running, an upper bound on the
  -- number of jobs that hold the key; and new_holders, the jobs that this script finally adds to the key's list.
  local function load_usages(keys)
    local fresh = {}
    for _, key in ipairs(keys) do
      if usages[key] == nil then
        usages[key] = false
        fresh[#fresh + 1] = key
      end
    end
    if #fresh == 0 then return end
    if stored == nil then
      stored = call('HLEN', base .. 'limits') <= FEW and {}
      local pairs_of = stored and call('HGETALL', base .. 'limits') or {}
      for two = 1, #pairs_of, 2 do stored[pairs_of[two]] = pairs_of[two + 1] end
    end
    local texts = stored
    if not texts then
      local fields = {}
      texts = {}
      for number, key in ipairs(fresh) do fields[2 * number - 1], fields[2 * number] = key, name_of(key) end
      for number, text in ipairs(call('HMGET', base .. 'limits', unpack(fields))) do texts[fields[number]] = text end
    end
    local arrivals = call('HMGET', base .. 'arrivals', unpack(fresh))
    for number, key in ipairs(fresh) do
      local own, named = read_settings(texts[key]), read_settings(texts[name_of(key)])
      local settings = own.has_any and own or named
      local is_paused = own.is_paused or named.is_paused
      if settings.has_any or is_paused or arrivals[number] then
        usages[key] = {
          key = key, settings = settings, is_paused = is_paused, next_arrival_at = tonumber(arrivals[number] or 0),
          running = settings.concurrent and call('SCARD', base .. 'slots:' .. key) or 0, new_holders = {},
        }
      end
    end
  end

  local function opens_at(usage, cost)
    local settings = usage.settings
    return usage.next_arrival_at - max(0, settings.burst_units - cost) * settings.interval
  end

  local function charge(usage, cost)
    local interval = usage.settings.interval
    if interval > 0 and cost > 0 then
      usage.next_arrival_at = max(usage.next_arrival_at, now) + cost * interval
      usage.is_charged = true
    end
  end

  -- Return the members of the key's list that still hold the key, and remove the others from the list. In the usage,
  -- set `returning` to the id of a strict holder that waits to be claimed again, and `returning_in` to its queue and
  -- lane.
  local function drop_past_holders(usage)
    local list = base .. 'slots:' .. usage.key
    local members, ids, gone, alive = call('SMEMBERS', list), {}, {}, {}
    for number, member in ipairs(members) do ids[number] = match(member, '^(.-)!?$') end
    local texts = records(ids)
    usage.returning = nil
    for number, member in ipairs(members) do
      local text, id = texts[number], ids[number]
      local letter = text and sub(text, 1, 1) or 'S'
      if letter == 'P' then
        alive[#alive + 1] = member
      elseif letter == 'S' then
        gone[#gone + 1] = member
      else
        local queue, session, admission = match(text, RECORD.captures(queue, session, admission))
        local keeps = #member > #id and not FINAL[letter]
        if session and (session ~= '' or keeps) then
          alive[#alive + 1] = member
          if letter == 'E' and session == '' then
            usage.returning, usage.returning_in = id, queue .. ' ' .. admission_of(admission).lane
          end
        else
          gone[#gone + 1] = member
        end
      end
    end
    many('SREM', list, gone)
    return alive
  end

  -- Return whether fewer jobs hold the key than its limit. The list may contain past holders, so these are removed if
  -- the list is full, but only once.
  local function find_free_slot(usage)
    local most = usage.settings.concurrent
    if not most or usage.running < most then return true end
    if usage.is_sure then return false end
    usage.running, usage.is_sure = #drop_past_holders(usage) + #usage.new_holders, true
    return usage.running < most
  end

  -- ---- choice --------------------------------------------------------------------------------------------------

  local function note_next_claim(at)
    if not next_claim_at or at < next_claim_at then next_claim_at = at end
  end

  -- Return a lane of the queue with the usages of its keys.
  local FREE = {}
  local function lane_at(queue, name)
    local lane = { name = name, key = 'lane:' .. queue .. ' ' .. name, queue = queue, usages = FREE, members = {}, read = 0, given = 0 }
    if usages[name] == false then return lane end
    local keys = {}
    add_keys(keys, name)
    lane.usages = {}
    for _, key in ipairs(keys) do
      local usage = usages[key]
      if usage then lane.usages[#lane.usages + 1] = usage end
    end
    return lane
  end

  -- Return the strict holder that waits in the lane to be claimed again, nil if there is none.
  local function returning(lane)
    for _, usage in ipairs(lane.usages) do
      if usage.returning and usage.returning_in == lane.queue .. ' ' .. lane.name then return usage.returning end
    end
  end

  -- Return whether every key of the lane allows a start with these costs; a missing cost is 1. If not, note that a key
  -- at its limit has delayed jobs of the queue, or note the time from which a rate allows the start.
  local function admits_or_notes_refusal(lane, costs)
    local at = 0
    for _, usage in ipairs(lane.usages) do
      local settings = usage.settings
      if usage.is_paused or settings.rate == 0 then return false end
      if not find_free_slot(usage) then
        local comes_back = returning(lane)
        if not comes_back or comes_back ~= usage.returning then
          usage.short = (not usage.short or usage.short == lane.queue) and lane.queue or '*'
          return false
        end
      end
      at = max(at, opens_at(usage, costs and costs[usage.key] or 1))
    end
    if at <= now then return true end
    note_next_claim(math.ceil(at))
    return false
  end

  -- The level of each job whose priority is not 0, by id; a higher priority has a lower level.
  local levels, has_levels = {}, false
  local function note_level(id, place)
    if #place < 14 then return end  -- below 2 ^ 45
    local level = floor(place / 2 ^ 45)
    if level ~= 0 then levels[id], has_levels = level, true end
  end

  -- Sort the jobs of a line by priority, from this position on; jobs of equal priority keep their order.
  local function put_in_order(line, first)
    if not has_levels then return end
    local some, places = {}, {}
    for number = first, #line do
      some[#some + 1] = line[number]
      places[line[number]] = number
    end
    table.sort(some, function(one, other)
      local mine, its = levels[one] or 0, levels[other] or 0
      if mine ~= its then return mine < its end
      return places[one] < places[other]
    end)
    for number, id in ipairs(some) do line[first + number - 1] = id end
  end

  local sharers = 1  -- number of lanes among which the remaining starts are shared
  local unseen = {}  -- number of candidates that may still be checked if the claim skips tasks, by queue
  local function read_open(lane)
    local left = unseen[lane.queue]
    while lane.given == #lane.members and not lane.is_all do
      local some = min(left, 50)
      if some <= 0 or leaving_out.is_over() then
        lane.is_all = true
        break
      end
      local more = call('ZRANGE', base .. lane.key, lane.read, lane.read + some - 1, 'WITHSCORES')
      local ids = {}
      for two = 1, #more, 2 do ids[#ids + 1] = match(more[two], '^[^\n]*') end
      local open = leaving_out.open(ids)
      for number, id in ipairs(ids) do
        if open[id] then
          lane.members[#lane.members + 1] = more[2 * number - 1]
          note_level(id, more[2 * number])
        end
      end
      lane.read, left = lane.read + #ids, left - #ids
      lane.is_all = #ids < some
    end
    unseen[lane.queue] = left
  end
  local function is_spent(queue)
    return leaving_out and (unseen[queue] <= 0 or leaving_out.is_over())
  end
  -- Return the next member of the lane, nil if there is none. Read as many members as can start from the lane if no
  -- lane is at a limit, and one more, which shows whether the lane is empty.
  local function head_of(lane, room)
    if leaving_out then
      read_open(lane)
    elseif lane.given == #lane.members and not lane.is_all then
      local some = min(floor((room - 1) / sharers) + 2, CHUNK)
      local more = call('ZRANGE', base .. lane.key, lane.read, lane.read + some - 1, 'WITHSCORES')
      for two = 1, #more, 2 do
        lane.members[#lane.members + 1] = more[two]
        if #more[two + 1] > 13 then note_level(match(more[two], '^[^\n]*'), more[two + 1]) end
      end
      lane.read = lane.read + #more / 2
      lane.is_all = #more < 2 * some
    end
    return lane.members[lane.given + 1]
  end

  -- Return the details of a job whose member in the lane is marked as having details: its id, its costs by key, its
  -- strict keys, and whether its latest start has passed.
  local function details_of(member)
    local id = sub(member, 1, -2)
    local text = call('HGET', base .. 'jobs', id)
    local attempt, crashes, enqueued, admission =
      match(text or '', RECORD.captures(attempt, crashes, enqueued, admission))
    if not admission then return id, nil, {}, false end
    admission = admission_of(admission)
    if not admission.costs then
      admission.costs, admission.strict = {}, {}
      for _, use in ipairs(admission.uses) do
        admission.costs[use[USE.key]], admission.strict[use[USE.key]] = use[USE.cost], use[USE.strict] ~= 0 or nil
      end
    end
    local is_late = attempt == '0' and crashes == '0'
      and ((admission.before and now > admission.before) or (admission.within and now > enqueued + admission.within)) and true or false
    return id, admission.costs, admission.strict, is_late
  end

  -- Start the job: add its cost to the use of its keys, and list it for the keys that limit concurrent jobs.
  local function start(lane, id, costs, strict, comes_back)
    for _, usage in ipairs(lane.usages) do
      charge(usage, costs and costs[usage.key] or 1)
      if comes_back and usage.returning == comes_back then
        usage.returning = nil
      else
        usage.running = usage.running + 1
      end
      if usage.settings.concurrent then
        usage.new_holders[#usage.new_holders + 1] = strict[usage.key] and id .. '!' or id
      end
    end
  end

  -- Take one more job from the lane if its keys allow it to start; return whether they do.
  local NOTHING = {}
  local function give(lane, room, given)
    if not admits_or_notes_refusal(lane) then return false end
    local member
    local comes_back = returning(lane)
    if comes_back then
      member = comes_back .. '\n'
      local place = not lane.came_back and call('ZSCORE', base .. lane.key, member)
      if not place or (leaving_out and not leaving_out.open({ comes_back })[comes_back]) then return false end
      note_level(comes_back, place)
      lane.came_back = member
    else
      member = head_of(lane, room)
      if not member then return false end
    end
    local id, costs, strict, is_late = member, nil, NOTHING, false
    if sub(member, -1) == '\n' then id, costs, strict, is_late = details_of(member) end
    if not is_late then
      if costs and not admits_or_notes_refusal(lane, costs) then return false end
      start(lane, id, costs, strict, comes_back)
    end
    if not comes_back then lane.given = lane.given + 1 end
    given[#given + 1] = id
    return true
  end

  -- Return the number of jobs with cost 1 that the keys of the lane allow to start, at most `room`. The keys must allow
  -- at least one.
  local function count_possible_starts(lane, room)
    for _, usage in ipairs(lane.usages) do
      local settings = usage.settings
      if settings.concurrent then room = min(room, settings.concurrent - usage.running) end
      if settings.interval > 0 then
        local left = settings.burst_units * settings.interval - max(usage.next_arrival_at - now, 0)
        room = min(room, floor(left / settings.interval + 1e-9))
      end
    end
    return room
  end

  -- Take the first jobs of the last remaining lane: as many as its keys allow, up to the first job that has details.
  -- Return whether any were taken.
  local function give_many(lane, room, given)
    if not admits_or_notes_refusal(lane) or returning(lane) then return give(lane, room, given) end
    local count = 0
    for _ = 1, count_possible_starts(lane, room) do
      local member = head_of(lane, room)
      if not member or sub(member, -1) == '\n' then break end
      lane.given, count = lane.given + 1, count + 1
      given[#given + 1] = member
    end
    if count == 0 then return give(lane, room, given) end
    for _, usage in ipairs(lane.usages) do
      charge(usage, count)
      usage.running = usage.running + count
      if usage.settings.concurrent then
        for number = #given - count + 1, #given do usage.new_holders[#usage.new_holders + 1] = given[number] end
      end
    end
    return true
  end

  local function keys_of(names)
    local keys = {}
    for _, name in ipairs(names) do add_keys(keys, name) end
    return keys
  end

  -- Request another check now, because this claim stopped before it reached all lanes. Do not request a check if claims
  -- have already checked all lanes without success.
  local function note_cut(queue, examined, has_found)
    if has_found then
      call('HDEL', base .. 'cut', queue)
    elseif call('HINCRBY', base .. 'cut', queue, examined) > 2 * call('ZCARD', base .. 'ring:' .. queue) then
      call('HDEL', base .. 'cut', queue)
      return
    end
    note_next_claim(now)
  end

  -- Return up to `room` jobs of the queue's lanes: one job from each lane whose keys allow one, in turn, then one more
  -- from each, and so on. Lanes in which jobs have just ended come last, because they would starve the other lanes if
  -- they came first.
  local function take(queue, room, freed_lanes)
    local ring = base .. 'ring:' .. queue
    local open, given, examined, seen, is_all = {}, {}, {}, {}, false
    local function first_round(names)
      load_usages(keys_of(names))
      for number, name in ipairs(names) do
        if #given >= room or is_spent(queue) then return number - 1 end
        if not seen[name] then
          seen[name] = true
          local lane = lane_at(queue, name)
          if give(lane, room, given) then open[#open + 1] = lane end
        end
      end
      return #names
    end
    sharers = max(1, min(room, WINDOW, call('ZCARD', ring)))
    while #examined < WINDOW and #given < room and not is_all and not is_spent(queue) do
      local wanted = min(WINDOW - #examined, max(room - #given, FEWEST_READ))
      local names = call('ZRANGE', ring, #examined, #examined + wanted - 1)
      for number = 1, first_round(names) do examined[#examined + 1] = names[number] end
      is_all = #names < wanted and not is_spent(queue)
    end
    if #given < room and not is_all then
      local some = {}
      for _, name in ipairs(freed_lanes or {}) do
        if call('ZSCORE', ring, name) then some[#some + 1] = name end
      end
      first_round(some)
      note_cut(queue, #examined, #given > 0)
    end
    local hungry = open
    while #given < room and #hungry > 0 do
      local still = {}
      sharers = #hungry
      for _, lane in ipairs(hungry) do
        if #given >= room then break end
        local gives = #hungry == 1 and give_many or give
        if gives(lane, room - #given, given) then still[#still + 1] = lane end
      end
      hungry = still
    end
    -- Remove the jobs that were taken from their lanes, and move the checked lanes to the end of the ring.
    local empty, is_empty = {}, {}
    for _, lane in ipairs(open) do
      if lane.given == 1 and not lane.came_back then
        call('ZREM', base .. lane.key, lane.members[1])
      else
        local members = {}
        for number = 1, lane.given do members[number] = lane.members[number] end
        if lane.came_back then members[#members + 1] = lane.came_back end
        many('ZREM', base .. lane.key, members)
      end
      local is_perhaps_over = lane.given == #lane.members or lane.came_back
      if is_perhaps_over and call('EXISTS', base .. lane.key) == 0 then
        empty[#empty + 1] = lane.name
        is_empty[lane.name] = true
      end
    end
    close_lanes(queue, empty)
    local turns = {}
    local turn = #examined > 0 and call('INCR', base .. 'turn')
    for _, name in ipairs(examined) do
      if not is_empty[name] then
        turns[#turns + 1] = turn
        turns[#turns + 1] = name
      end
    end
    many('ZADD', ring, turns)
    return given
  end

  -- ---- claims --------------------------------------------------------------------------------------------------

  local function pop_plain(queue, count, line, near)
    if count <= 0 then return end
    local key = base .. 'r:' .. queue
    local members = near and {} or call('ZPOPMIN', key, count)
    if near then
      local some = {}
      for place = 1, count do
        local id = table.remove(near, 1)
        some[place], members[2 * place - 1], members[2 * place] = id, id, call('ZSCORE', key, id)
      end
      many('ZREM', key, some)
    end
    for pair = 1, #members, 2 do
      line[#line + 1] = members[pair]
      note_level(members[pair], members[pair + 1])
    end
    if call('EXISTS', key) == 0 then call('SREM', base .. 'work', queue) end
  end

  -- Add up to `room` more jobs of a queue to its line. If the queue has jobs with and without limits, each kind gets
  -- half of the places. If `room` is odd, the kinds take turns to get the extra place. If one kind does not need all of
  -- its places, the other kind gets them.
  local function take_both(entry, room)
    local half, before = floor(room / 2), #entry.line
    if room % 2 == 1 and entry.plain > half and entry.has_lanes then half = half + call('INCR', base .. 'odd') % 2 end
    if entry.has_lanes then
      local given = take(entry.queue, room - min(entry.plain, half), entry.freed)
      for _, id in ipairs(given) do entry.line[#entry.line + 1] = id end
    end
    local count = min(entry.plain, room - (#entry.line - before))
    pop_plain(entry.queue, count, entry.line, entry.near)
    entry.plain = entry.plain - count
    put_in_order(entry.line, before + 1)
    return #entry.line - before
  end

  -- Take up to `limit` jobs from the queues: in order of the queues, or an equal share from each. `freed_by_queue`
  -- contains the lanes in which jobs have just ended. Return the ids, and the lists of ids by queue.
  local function claim(names, limit, in_turn, freed_by_queue, at)
    now = tonumber(at)
    local entries, lines, left = {}, {}, limit
    for number, queue in ipairs(names) do
      local entry = { queue = queue, line = {}, plain = 0, has_lanes = false, freed = freed_by_queue[queue] }
      if call('SISMEMBER', base .. 'paused', queue) == 0 then
        entry.plain = call('ZCARD', base .. 'r:' .. queue)
        entry.has_lanes = call('EXISTS', base .. 'ring:' .. queue) == 1
        if leaving_out then
          unseen[queue] = leaving_out.share(#names)
          entry.near = leaving_out.first_of('r:' .. queue, limit, unseen[queue])
          entry.plain = #entry.near
        end
      end
      entries[number], lines[number] = entry, entry.line
    end
    local hungry = entries
    while left > 0 and #hungry > 0 do
      local each, still = in_turn and max(1, floor(left / #hungry)) or left, {}
      for _, entry in ipairs(hungry) do
        local wanted = min(each, left)
        if wanted == 0 then break end
        local got = (entry.plain > 0 or entry.has_lanes) and take_both(entry, wanted) or 0
        left = left - got
        if got == wanted then still[#still + 1] = entry end
      end
      hungry = still
    end
    for number, line in ipairs(lines) do
      many('ZREM', base .. 'l:E:' .. names[number], line)
      if #line > 0 then call('HINCRBY', base .. 'running', names[number], #line) end
    end
    return in_order(names, lines, in_turn), lines
  end

  -- For the keys of the taken jobs, store the holders and the used rates. Also store the keys that have delayed a job.
  -- Return the time at which to check again, nil for never.
  local function finish()
    local short = {}
    for key, usage in pairs(usages) do
      if usage then
        many('SADD', base .. 'slots:' .. key, usage.new_holders)
        if usage.is_charged then call('HSET', base .. 'arrivals', key, int(usage.next_arrival_at)) end
        if usage.short then short[#short + 1] = key end
      end
    end
    if #short > 0 then
      for number, queue in ipairs(call('HMGET', base .. 'short', unpack(short))) do
        local key = short[number]
        local all = (not queue or queue == usages[key].short) and usages[key].short or '*'
        if all ~= queue then call('HSET', base .. 'short', key, all) end
      end
    end
    return next_claim_at
  end

  -- Return the usage of a key, even if it has no limit.
  local function usage_of(key)
    load_usages({ key })
    return usages[key] or { key = key, settings = NONE, next_arrival_at = 0, new_holders = {}, running = 0 }
  end

  return {
    claim = claim, finish = finish, usage_of = usage_of, drop_past_holders = drop_past_holders, opens_at = opens_at,
  }
end
