-- What every script has at hand; it stands in front of each of them.
--
-- KEYS[1] is the base of a partition, such as firelock:{0}; every other key is derived from it. A script writes into no
-- other partition, so that in a cluster it runs on one node. ARGV[1] is what tests add to the clock, in micros. In a
-- script of several verbs ARGV[2] names the verb; what stands behind it are the parameters of that function, and where it
-- takes any number of words they stand in ARGV behind those.

local base = KEYS[1] .. ':'
local call = redis.call
local match, find, sub, format = string.match, string.find, string.sub, string.format
local CHUNK = 1000

-- Micros of the server's own clock.
local function server_clock()
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Micros of the storage's clock.
local function clock()
  return server_clock() + ARGV[1]
end

-- A number with all its digits: concatenation keeps fourteen of them.
local function int(number)
  return format('%.0f', number)
end

-- Call a command with any number of members, as many at a time as Lua can lay on its stack.
local function many(command, key, members)
  for first = 1, #members, CHUNK do
    call(command, key, unpack(members, first, math.min(first + CHUNK - 1, #members)))
  end
end

local function unlink(keys)
  many('UNLINK', base .. 'none', keys)
end

-- What stands in ARGV from there on, as a list of its own.
local function words_from(first)
  local words = {}
  for place = first, #ARGV do words[#words + 1] = ARGV[place] end
  return words
end

-- A first write that needs no memory: the script runs also when memory is full, so that what drains it or frees some
-- is never refused, and who runs goes on.
local function despite_full_memory()
  call('DEL', base .. 'none')
end

-- The first of a ZSET by its score, as text; nil where it is empty.
local function first_score(key)
  return call('ZRANGE', base .. key, 0, 0, 'WITHSCORES')[2]
end

-- The earliest due instant of a scheduled job or a recurring definition as text, nothing where there is none.
local function next_due()
  local due, recurring = first_score('due'), first_score('due:recurring')
  if due and recurring then return tonumber(recurring) < tonumber(due) and recurring or due end
  return due or recurring or ''
end

-- Tell those who wait: a queue's name where it got its first work, * where an instant came nearer or a queue was resumed, taken
-- and a session where others have taken jobs from it.
local function wake(message)
  call('PUBLISH', base .. 'wake', message)
end

-- Do what the verb says that the call names; no verb has more than twenty parameters with a name.
local function run(verbs)
  return verbs[ARGV[2]](unpack(ARGV, 3, 22))
end
