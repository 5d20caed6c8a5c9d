-- Stands before every script. KEYS[1] is the partition's tag, in braces: every key of the partition
-- begins with it, and so is in its slot. Numbers stay below 2^53 and are written out by num().
local T = KEYS[1]
local call = redis.call
local clock = call('TIME')
local us = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local now = math.floor(us / 1000)

local function num(n) return string.format('%.0f', n) end
local function str(s) return #s .. ':' .. s end

-- What is to be told, by when: the score. At one score, arrivals (A) come before departures (D),
-- misses (M) and numbers (N).
local function hook(entry, due)
  call('ZADD', T .. ':hooks', 'LT', num(due), entry)
  if call('ZRANGE', T .. ':hooks', 0, 0)[1] == entry then
    call('SPUBLISH', T .. ':nudge', 'N')
  end
end

-- Opens a topic for a change. Everything about it is collected, and told at once by close().
local function open(K)
  local x = {
    K = K, t = T .. ':t:' .. K, n = T .. ':n:' .. K, u = T .. ':u:' .. K,
    counts = {}, added = {}, removed = {}, was = {}, users = {},
    -- Who has been told of already, in a world that is lost: users, and the topic itself as ''.
    known = {},
    -- A number is to be left out, so that whoever listens asks for a snapshot.
    skips = false,
  }
  local held = call('HMGET', x.t, 'seq', 'sum', 'told')
  x.seq = tonumber(held[1] or nil)
  x.sum = tonumber(held[2] or nil) or 0
  x.told = held[3]
  x.before = x.sum
  return x
end

local function members_of(x, node) return T .. ':m:' .. node .. ':' .. x.K end

local function before(x, user)
  if x.was[user] == nil then
    x.was[user] = call('HEXISTS', x.u, user)
    x.users[#x.users + 1] = user
  end
end

-- A node has so many sockets; nil: it holds nothing any more.
local function set_count(x, node, count)
  local had = tonumber(call('HGET', x.n, node) or nil)
  if count then
    if had ~= count then call('HSET', x.n, node, num(count)) end
    if not had then call('SADD', T .. ':held:' .. node, x.K) end
  else
    if had then call('HDEL', x.n, node) end
    call('SREM', T .. ':held:' .. node, x.K)
  end
  local old, new = had or 0, count or 0
  if old ~= new then
    x.sum = x.sum + new - old
    x.counts[#x.counts + 1] = str(node) .. str(num(new))
  end
end

local function add(x, node, user, info)
  local m = members_of(x, node)
  local held = call('HGET', m, user)
  if held == info then return end
  call('HSET', m, user, info)
  if not held then
    before(x, user)
    call('HINCRBY', x.u, user, 1)
  end
  x.added[#x.added + 1] = str(node) .. str(user) .. str(info)
end

local function remove(x, node, user)
  if call('HDEL', members_of(x, node), user) == 0 then return end
  before(x, user)
  if call('HINCRBY', x.u, user, -1) <= 0 then call('HDEL', x.u, user) end
  x.removed[#x.removed + 1] = str(node) .. str(user)
end

local function arrived(x, suffix, known)
  -- A departure that nobody was told of yet is taken back, and there is nothing to tell.
  if call('ZREM', T .. ':hooks', 'D' .. str(x.K) .. suffix) == 0 and not known then
    hook('A' .. str(x.K) .. suffix, now)
  end
end

local function left(x, suffix, delay)
  hook('D' .. str(x.K) .. suffix, now + delay)
end

local function tell(x)
  local delay, counted = string.match(x.told, '^(%d+)(n?)$')
  delay = tonumber(delay)
  if not delay then return end
  if x.before == 0 and x.sum > 0 then arrived(x, '', x.known['']) end
  for _, user in ipairs(x.users) do
    local is = call('HEXISTS', x.u, user)
    if x.was[user] == 0 and is == 1 then arrived(x, '=' .. user, x.known[user]) end
    if x.was[user] == 1 and is == 0 then left(x, '=' .. user, delay) end
  end
  -- A little later: the last member leaves before its channel is vacated.
  if x.before > 0 and x.sum == 0 then left(x, '', delay + 1) end
  if counted == 'n' and x.before ~= x.sum then
    hook('N' .. str(x.K), (x.sum > 100) and (now + 5000) or now)
  end
end

-- Writes down and tells what has changed. Gives the topic's number.
local function close(x)
  local changes = #x.counts + #x.added + #x.removed
  -- A topic begins at the time, so that numbers never return even where it was forgotten in between.
  local fresh = not x.seq
  x.seq = x.seq or us
  if x.skips then x.seq = x.seq + 1 end
  local moves = changes > 0 or x.skips
  if moves then x.seq = x.seq + 1 end
  if changes > 0 and x.told then tell(x) end
  if x.sum ~= x.before then
    local app = string.match(x.K, '^c/([^/]*)/')
    if app and x.sum > 0 then call('HSET', T .. ':occ:' .. app, x.K, num(x.sum)) end
    if app and x.sum <= 0 then call('HDEL', T .. ':occ:' .. app, x.K) end
  end
  if call('EXISTS', x.n) == 0 then
    -- Nobody is left who listens.
    call('DEL', x.t, x.u, T .. ':miss:' .. x.K)
  elseif moves or fresh then
    call('HSET', x.t, 'seq', num(x.seq), 'sum', num(x.sum))
    if moves then
      local world = string.match(call('GET', T .. ':world') or '', '^%x+') or '0'
      call('SPUBLISH', T .. ':' .. x.K, 'C' .. str(world) .. str(num(x.seq))
        .. str(num(#x.counts)) .. table.concat(x.counts)
        .. str(num(#x.added)) .. table.concat(x.added)
        .. str(num(#x.removed)) .. table.concat(x.removed))
    end
  end
  return x.seq
end
