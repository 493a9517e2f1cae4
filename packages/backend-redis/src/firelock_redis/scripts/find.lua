-- Find the places of jobs: read several lists together, in order of score and id. Collect the jobs that meet the
-- conditions until enough jobs are found or the budget is used up. Included after library.lua.
--
-- KEYS  1 base; derived: the lists in ARGV, jobs payloads all (see jobs.lua)
-- ARGV  from 2 a WALK, empty for conditions that do not apply; then the names of the lists that must contain a job,
--       and of the lists to read
-- Reply 1 if the search has reached the end of all lists, else 0; score and id of the last place that was checked, both
--       empty if there is none; then time and id of each job found

local BYTES = 200000  -- target size in bytes of the records or payloads that are read together
local MOST = 500  -- number of jobs that are checked together

local oldest_first, since, before = ARGV[2 + WALK.oldest_first] == '1', ARGV[2 + WALK.since], ARGV[2 + WALK.before]
local place_score, place_id = ARGV[2 + WALK.place_score], ARGV[2 + WALK.place_id]
local wanted, budget, time_kind = tonumber(ARGV[2 + WALK.wanted]), tonumber(ARGV[2 + WALK.budget]), ARGV[2 + WALK.time]
local prefix, state, queue, task = ARGV[2 + WALK.prefix], ARGV[2 + WALK.state], ARGV[2 + WALK.queue], ARGV[2 + WALK.task]
local server, fingerprint, retrying = ARGV[2 + WALK.server], ARGV[2 + WALK.fingerprint], ARGV[2 + WALK.retrying]
local first_set, sets = 2 + WALK.width, tonumber(ARGV[2 + WALK.sets])
local reads_record = time_kind == 'changed' or time_kind == 'due' or state .. queue .. server .. fingerprint .. retrying ~= ''
local spent = 0

-- ---- walk ------------------------------------------------------------------------------------------------------

-- Return whether an id comes before another one, compared by bytes as in a ZSET; `<` depends on the server's locale.
local function precedes(one, other)
  spent = spent + 1.5
  for first = 1, #one, 8 do
    if sub(one, first, first + 7) ~= sub(other, first, first + 7) then
      for place = first, first + 7 do
        local mine, its = string.byte(one, place) or -1, string.byte(other, place) or -1
        if mine ~= its then return mine < its end
      end
    end
  end
  return #one < #other
end

-- Return the number of members of the list before the place where the search continues. Among equal scores, a binary
-- search finds this place.
local function rank(key)
  local low = call('ZCOUNT', key, '-inf', '(' .. place_score)
  local high = call('ZCOUNT', key, '-inf', place_score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local id = call('ZRANGE', key, middle, middle)[1]
    if precedes(id, place_id) or (oldest_first and id == place_id) then low = middle + 1 else high = middle end
  end
  return low
end

local function opened(name)
  local key = base .. name
  local list = { key = key, first = 0, last = call('ZCARD', key), at = 0, stride = oldest_first and 2 or -2, pairs = {} }
  if since ~= '' then list.first = call('ZCOUNT', key, '-inf', '(' .. since) end
  if before ~= '' then list.last = call('ZCOUNT', key, '-inf', '(' .. before) end
  if place_score ~= '' then
    local here = rank(key)
    if oldest_first then list.first = math.max(list.first, here) else list.last = math.min(list.last, here) end
  end
  spent = spent + 2
  return list
end

local function fetch(list, some)
  local count = math.min(some, list.last - list.first)
  if count <= 0 then return end
  local from = oldest_first and list.first or list.last - count
  list.pairs = call('ZRANGE', list.key, from, from + count - 1, 'WITHSCORES')
  if oldest_first then list.first = list.first + count else list.last = from end
  list.at = oldest_first and 1 or #list.pairs - 1
  spent = spent + 0.3 * count
end

-- Move to the next place of a list; at the end of the list, the place has no id.
local function advance(list, some)
  list.at = list.at + list.stride
  if not list.pairs[list.at] then fetch(list, some) end
  list.id, list.text = list.pairs[list.at], list.pairs[list.at + 1]
  list.score = tonumber(list.text)
end

local function comes_first(one, other)
  if one.score ~= other.score then return (one.score < other.score) == oldest_first end
  return precedes(one.id, other.id) == oldest_first
end

-- Lists in descending order of their next places, and lists whose next place has not been read yet.
local ordered, waiting = {}, {}
for number = first_set + sets, #ARGV do waiting[#waiting + 1] = opened(ARGV[number]) end
local lists = #waiting

local function put_in_order(list)
  local low, high = 1, #ordered + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if comes_first(list, ordered[middle]) then low = middle + 1 else high = middle end
  end
  table.insert(ordered, low, list)
end

local function taken(count)
  local places = {}
  local some = lists == 1 and count or math.max(8, math.ceil(2 * count / lists))
  for number = 1, count do
    for one = #waiting, 1, -1 do
      advance(waiting[one], some)
      if waiting[one].id then put_in_order(waiting[one]) end
      waiting[one] = nil
    end
    local list = table.remove(ordered)
    if not list then break end
    places[number] = { id = list.id, score = list.text, time = list.text }
    waiting[1] = list
  end
  spent = spent + #places * (lists == 1 and 0.5 or 2)
  return places
end

local function is_all_walked()
  local list = waiting[1]
  return #ordered == 0 and not (list and (list.pairs[list.at + list.stride] or list.first < list.last))
end

-- ---- conditions ------------------------------------------------------------------------------------------------

local bytes, texts_read = 1, 0

local function read_texts(places, kind)
  if #places == 0 then return {} end
  local ids = {}
  for number, place in ipairs(places) do ids[number] = place.id end
  local texts = call('HMGET', base .. kind, unpack(ids))
  for number = 1, #places do
    local size = texts[number] and #texts[number] or 0
    bytes = bytes + size
    spent = spent + 1.2 + size / 500
  end
  texts_read = texts_read + #places
  return texts
end

local function ends_with_fingerprint(line)
  if sub(line, -#fingerprint - 1) ~= fingerprint .. ']' then return false end
  local mark = sub(line, -#fingerprint - 2, -#fingerprint - 2)
  return mark == ' ' or mark == ','  -- a quotation mark within a JSON string follows a backslash
end

local function is_wanted_record(text)
  if state ~= '' and sub(text, 1, 1) ~= state then return false end
  if queue ~= '' and match(text, RECORD.captures(queue)) ~= queue then return false end
  if retrying ~= '' then
    local stands, retries = match(text, RECORD.captures(state, retries))
    local is_retrying = stands == 'C' and retries ~= '0' and match(text, LAST.captures(waits)) == ''
    if is_retrying ~= (retrying == '1') then return false end
  end
  if fingerprint ~= '' and not ends_with_fingerprint(match(text, RECORD.captures(error)) or '') then
    return false
  end
  return server == '' or match(text, LAST.captures(server)) == server
end

local function is_in_sets(id)
  for number = first_set, first_set + sets - 1 do
    spent = spent + 0.7
    if not call('ZSCORE', base .. ARGV[number], id) then return false end
  end
  return true
end

-- Return the places that meet every condition; cheap conditions are checked first.
local function meeting(places)
  local left = {}
  for _, place in ipairs(places) do
    if sub(place.id, 1, #prefix) == prefix and is_in_sets(place.id) then left[#left + 1] = place end
  end
  if reads_record then
    places, left = left, {}
    local texts = read_texts(places, 'jobs')
    for number, place in ipairs(places) do
      local text = texts[number]
      if text and is_wanted_record(text) then
        left[#left + 1] = place
        local time = time_kind == 'changed' and match(text, LAST.captures(changed)) or time_kind == 'due' and match(text, LAST.captures(due))
        if time and time ~= '' then place.time = time end
      end
    end
  end
  if task ~= '' then
    places, left = left, {}
    local texts = read_texts(places, 'payloads')
    for number, place in ipairs(places) do
      if texts[number] and sub(texts[number], 1, #task) == task then left[#left + 1] = place end
    end
  end
  return left
end

-- ---- main part -------------------------------------------------------------------------------------------------

local is_tested = reads_record or prefix .. task ~= '' or sets > 0
local reads_texts = reads_record or task ~= ''

local function how_many_next(missing)
  if not is_tested then return math.min(missing, MOST) end
  local fits = math.min(MOST, math.floor((budget - spent) / 4))
  if reads_texts then fits = math.min(fits, texts_read == 0 and 50 or math.floor(BYTES * texts_read / bytes)) end
  return math.max(1, fits)
end

local reply, found = { 1, '', '' }, 0

local function add_to_reply(place)
  found = found + 1
  local time = time_kind == 'created' and call('ZSCORE', base .. 'all', place.id)
  reply[2 * found + 2], reply[2 * found + 3] = time or place.time, place.id
end

repeat
  local places = taken(how_many_next(wanted - found))
  if #places == 0 then break end
  local good, last = meeting(places), places[#places]
  for number = 1, math.min(#good, wanted - found) do
    add_to_reply(good[number])
    if found == wanted then last = good[number] end
  end
  reply[1] = last == places[#places] and 1 or 0
  reply[2], reply[3] = last.score, last.id
until found == wanted or spent >= budget
if not is_all_walked() then reply[1] = 0 end
return reply
