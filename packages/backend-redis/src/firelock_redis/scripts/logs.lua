-- Log lines and progress of running jobs. Included after library.lua.
--
-- g:<id> LIST of a job's newest lines, each as "number line", numbered without gaps; o:<id> the job's progress. The
-- hash jobs shows whether the job is stored.

local verbs = {}

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

-- Add lines to the logs of jobs, and replace the progress of these jobs. ARGV from 3: for each job, or for each part of
-- its lines, a LOG_PART and the lines.
function verbs.append()
  local arg = 3
  while arg < #ARGV do
    local id, progress = ARGV[arg + LOG_PART.id], ARGV[arg + LOG_PART.progress]
    local skipped, count = tonumber(ARGV[arg + LOG_PART.skipped]), tonumber(ARGV[arg + LOG_PART.size])
    arg = arg + LOG_PART.width
    if call('HEXISTS', base .. 'jobs', id) == 1 then
      if count > 0 then append(base .. 'g:' .. id, arg, skipped, count) end
      if progress ~= '' then call('SET', base .. 'o:' .. id, progress) end
    end
    arg = arg + count
  end
end

-- Return up to `limit` lines of a job's log after the line with this number, in order.
function verbs.read(id, after, limit)
  local key = base .. 'g:' .. id
  local oldest = call('LINDEX', key, 0)
  if not oldest then return {} end
  -- Numbers have no gaps, so the oldest number determines the position of each line.
  local start = math.max(0, after + 1 - match(oldest, '^%d+'))
  return call('LRANGE', key, int(start), int(start + limit - 1))
end

return run(verbs)
