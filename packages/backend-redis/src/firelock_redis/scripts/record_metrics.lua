-- Figures are added to those of their minutes. Behind lib.lua.
--
-- KEYS  1 base; derived: m:<minute> HASH JSON of [task, queue, outcome] -> "count duration" and one number a bucket;
--       mz ZSET of the minutes that have figures
-- ARGV  for each rollup: minute, field, figures
-- Reply 1

-- The sum, place by place; exact, as no figure comes near 2^53 (of micros, 285 years). One may have more places.
local function sum(one, other)
  local added, place = {}, 0
  local ones, others = string.gmatch(one, '%S+'), string.gmatch(other, '%S+')
  local left, right = ones(), others()
  while left or right do
    place = place + 1
    added[place] = int((left or 0) + (right or 0))
    left, right = ones(), others()
  end
  return table.concat(added, ' ')
end

for arg = 1, #ARGV, 3 do
  local key, field, figures = base .. 'm:' .. ARGV[arg], ARGV[arg + 1], ARGV[arg + 2]
  local stored = call('HGET', key, field)
  call('HSET', key, field, stored and sum(figures, stored) or figures)
  call('ZADD', base .. 'mz', ARGV[arg], ARGV[arg])
end
return 1
