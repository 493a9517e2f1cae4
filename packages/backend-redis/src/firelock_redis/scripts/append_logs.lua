-- Lines are added to the logs of jobs, and their progress is replaced. Behind lib.lua.
--
-- KEYS  1 base; derived: jobs, which says whether there is such a job; g:<id> LIST of its newest lines, each of them
--       "number line", numbers without gaps; o:<id> its progress
-- ARGV  for each job, or a part of its lines: id, progress or nothing, how many lines before these are not sent since
--       they would not stay, number of lines, and the lines
-- Reply 1

local KEPT = 1000

local function append(key, first, skipped, count)
  local last = call('LINDEX', key, -1)
  local number = tonumber(last and match(last, '^%d+') or 0) + skipped
  local lines = {}
  for place = 1, count do lines[place] = int(number + place) .. ' ' .. ARGV[first + place - 1] end
  if skipped > 0 then call('DEL', key) end
  many('RPUSH', key, lines)
  call('LTRIM', key, -KEPT, -1)
end

local arg = 1
while arg < #ARGV do
  local id, progress, skipped, count = ARGV[arg], ARGV[arg + 1], tonumber(ARGV[arg + 2]), tonumber(ARGV[arg + 3])
  if call('HEXISTS', base .. 'jobs', id) == 1 then
    if count > 0 then append(base .. 'g:' .. id, arg + 4, skipped, count) end
    if progress ~= '' then call('SET', base .. 'o:' .. id, progress) end
  end
  arg = arg + 4 + count
end
return 1
