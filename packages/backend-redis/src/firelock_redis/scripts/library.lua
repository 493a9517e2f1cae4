-- The functions that every script can use; this file precedes each of them.
--
-- KEYS[1] is the base of a partition, such as firelock:{0}; every other key is derived from this base. A script writes
-- only to this partition, so in a cluster it runs on one node. ARGV[1] is the number of microseconds that tests add to
-- the clock. In a script with several verbs, ARGV[2] is the name of the verb. The next arguments are the parameters of
-- the verb's function. If the function accepts any number of values, these follow its parameters in ARGV. The
-- function's result is the reply, in which false becomes nil.

local base = KEYS[1] .. ':'
local call = redis.call
local match, find, sub, format = string.match, string.find, string.sub, string.format
local CHUNK = 1000

-- Return the server's own clock in microseconds.
local function server_clock()
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Return the storage's clock in microseconds.
local function clock()
  return server_clock() + ARGV[1]
end

-- Return a number as a string with all its digits; a concatenation would keep only fourteen digits.
local function int(number)
  return format('%.0f', number)
end

-- Call a command with any number of members, split into several calls if they do not fit on the Lua stack.
local function many(command, key, members)
  for first = 1, #members, CHUNK do
    call(command, key, unpack(members, first, math.min(first + CHUNK - 1, #members)))
  end
end

local function unlink(keys)
  many('UNLINK', base .. 'none', keys)
end

-- Return a new list of the values in ARGV, from this position on.
local function words_from(first)
  local words = {}
  for place = first, #ARGV do words[#words + 1] = ARGV[place] end
  return words
end

-- Begin the script with a write that does not need memory, so that Redis runs the script even if memory is full.
-- Redis therefore never refuses scripts that free memory or that let running jobs continue.
local function despite_full_memory()
  call('DEL', base .. 'none')
end

-- Return the lowest score of a ZSET as a string; nil if it is empty.
local function first_score(key)
  return call('ZRANGE', base .. key, 0, 0, 'WITHSCORES')[2]
end

-- Return the earliest due time of a scheduled job or a recurring definition as a string; an empty string for none.
local function next_due()
  local due, recurring = first_score('due'), first_score('due:recurring')
  if due and recurring then return tonumber(recurring) < tonumber(due) and recurring or due end
  return due or recurring or ''
end

-- Notify waiting servers. The message is the name of a queue that got its first job, * if the next due time is earlier
-- than before or a queue was resumed, or `taken` and a session if other processes have taken jobs of that session.
local function wake(message)
  call('PUBLISH', base .. 'wake', message)
end

-- Run the requested verb; verbs have at most twenty named parameters.
local function run(verbs)
  return verbs[ARGV[2]](unpack(ARGV, 3, 22))
end
