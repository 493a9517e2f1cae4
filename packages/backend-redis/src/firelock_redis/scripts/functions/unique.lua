-- Unique keys. Included after library.lua and jobs.lua. This file implements firelock/limits/unique_rules.py in one
-- function, for the same reason as limits.lua.
--
-- A key refers to a job, and the job's record determines whether it still has the key. unique HASH key -> UNIQUE_OWNER;
-- uz ZSET: the keys, in order of name. A UNIQUE describes how a job uses its key.

-- Return functions that read and change the rows of keys. `job_at` returns the job with this id, false if it is not
-- stored.
local function unique_keys(now, job_at)
  local rows, news = {}, {}
  local null = cjson.null

  local function row_of(key)
    local row = rows[key]
    if row == nil then
      local owner = call('HGET', base .. 'unique', key) or ''
      local mark, free_at, id = match(owner, UNIQUE_OWNER.captures(mark, free_at, id))
      row = id and { mark = tonumber(mark), free_at = tonumber(free_at), id = id } or false
      rows[key] = row
    end
    return row
  end

  local function set(key, id, mark, free_at)
    rows[key] = { mark = mark, free_at = free_at, id = id }
    news[key] = int(mark) .. ' ' .. int(free_at) .. ' ' .. id
  end

  local function store()
    local fields, members = {}, {}
    for key, text in pairs(news) do
      local two = #fields
      fields[two + 1], fields[two + 2] = key, text
      members[two + 1], members[two + 2] = 0, key
    end
    many('HSET', base .. 'unique', fields)
    many('ZADD', base .. 'uz', members)
    news = {}
  end

  local function starts_of(job)
    return job.attempt + job.crashes
  end

  local function is_late(admission, job)
    if job.enqueued == '0' then return false end
    return (admission.before and now > admission.before) or (admission.within and now > job.enqueued + admission.within)
  end

  -- Return whether the job to which the key refers still has the key; `job` is false if it is not stored.
  local function is_taken(row, job)
    if now < row.free_at then return true end
    local admission = job and job.admission ~= '' and admission_of(job.admission)
    if not admission or not admission.unique then return false end
    local state, starts = job.state, starts_of(job)
    local is_unstarted = starts == row.mark
    if is_unstarted and state ~= 'P' and starts == 0 and is_late(admission, job) then return false end
    local kept_until, is_held = admission.unique[UNIQUE.kept_until], job.session ~= ''
    if kept_until == 'due' then return state == 'C' and is_unstarted end
    if kept_until == 'started' then return not FINAL[state] and state ~= 'P' and is_unstarted end
    if kept_until == 'succeeded' then return (state ~= 'S' and state ~= 'D') or is_held end
    return not FINAL[state] or is_held
  end

  -- Try to give the key to a new job; return nil if this succeeds. Otherwise return the id of the job that has the key,
  -- that job, its row, and the reason to refuse the call, which is empty if the call need not be refused.
  local function take_key(job, use)
    local row = row_of(use[UNIQUE.key])
    if row then
      local holder = job_at(row.id)
      if is_taken(row, holder) then
        local why = ''
        if holder and holder.state == 'D' and holder.session ~= '' then
          why = 'deleted'
        elseif use[UNIQUE.raises] then
          why = 'raises'
        end
        return row.id, holder, row, why
      end
    end
    set(use[UNIQUE.key], job.id, 0, use[UNIQUE.at_least] ~= 0 and now + use[UNIQUE.at_least] or 0)
  end

  -- Return whether a call may change the job that has its key.
  local function is_changeable(row, job)
    if admission_of(job.admission).is_unread then return false end  -- only a newer release can decide whether a change is safe
    return find('WCE', job.state, 1, true) and job.session == '' and starts_of(job) == row.mark
  end

  -- Return the due time of the job after a call that postpones it, nil if the due time does not change.
  local function debounced_due(use, job, created)
    if use[UNIQUE.wait] == null or job.state ~= 'C' then return nil end
    local due = now + use[UNIQUE.wait]
    return int(use[UNIQUE.max_wait] == null and due or math.min(due, created + use[UNIQUE.max_wait]))
  end

  -- Return whether another job has the unique key of an ended job that must run again.
  local function is_taken_by_other(job)
    local use = admission_of(job.admission).unique
    local row = use and row_of(use[UNIQUE.key])
    if not row or row.id == job.id then return false end
    return is_taken({ mark = row.mark, free_at = 0, id = row.id }, job_at(row.id))
  end

  -- Give the unique key to the job that runs again.
  local function take_again(job)
    local use = admission_of(job.admission).unique
    if use then set(use[UNIQUE.key], job.id, starts_of(job), (row_of(use[UNIQUE.key]) or { free_at = 0 }).free_at) end
  end

  return {
    take_key = take_key, store = store, is_changeable = is_changeable, debounced_due = debounced_due,
    is_taken_by_other = is_taken_by_other, take_again = take_again,
  }
end
