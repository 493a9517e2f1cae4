-- Failed jobs, grouped by their last error's fingerprint; those without one are passed over. Behind lib.lua.
--
-- KEYS  1 base; derived: jobs (see jobs.lua)
-- ARGV  ids
-- Reply for each group: fingerprint, how many there are, the place among the ids of the first of them

local function fingerprint(text)
  local line = match(text, '^F[^\n]*\n[^\n]*\n([^\n]+)\n')
  if not line then return nil end
  local plain = match(line, ', ?"([^"\\]*)"%]$')
  if plain then return plain end
  local is_read, fields = pcall(cjson.decode, line)
  return is_read and type(fields) == 'table' and type(fields[3]) == 'string' and fields[3] or nil
end

local reply, groups = {}, {}
for number, text in ipairs(call('HMGET', base .. 'jobs', unpack(ARGV))) do
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
