-- Writes a node's share of a topic.
-- ARGV: topic, node, sockets, listens, whole, snapshot, told ('' or milliseconds and 'n' where numbers
-- are told), former names of the node by commas, milliseconds that a new world takes to settle,
-- cached for milliseconds, cached event, the world that knew this share before or '', then for each
-- member: '+', '=' (the same, and that world knew it) or '-', user, info, limit or ''.
local K, node, count = ARGV[1], ARGV[2], tonumber(ARGV[3])
local listens, whole, snapshot = ARGV[4] == '1', ARGV[5] == '1', ARGV[6] == '1'
local told, former, window = ARGV[7], ARGV[8], tonumber(ARGV[9])
local keep, cached = tonumber(ARGV[10]), ARGV[11]
local knew = ARGV[12]
local FIRST = 13

local world = call('GET', T .. ':world')
if not world or not call('ZSCORE', T .. ':nodes', node) then return {'GONE'} end

local id, created = string.match(world, '^(%x+):(%d+)$')

local x = open(K)
local holds = count > 0 or listens
if holds and told ~= '' and told ~= x.told then
  call('HSET', x.t, 'told', told)
end
if told ~= '' then x.told = told end
-- What a world knew has been told then, and is not told again because that one is lost.
local lost = knew ~= '' and knew ~= id
if lost then x.known[''] = true end

local refused = {}
if holds then
  local named = {}
  for i = FIRST, #ARGV, 4 do
    local op, user, info, limit = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
    if op ~= '-' then
      if lost and op == '=' then x.known[user] = true end
      if limit and call('HEXISTS', x.u, user) == 0 and call('HLEN', x.u) >= limit then
        refused[#refused + 1] = user
      else
        named[user] = true
        add(x, node, user, info)
      end
    end
  end
  -- Afterwards, so that a user who is named under another of the node's names does not go in between.
  for i = FIRST, #ARGV, 4 do
    if ARGV[i] == '-' then remove(x, node, ARGV[i + 1]) end
  end
  if whole then
    for _, user in ipairs(call('HKEYS', members_of(x, node))) do
      if not named[user] then remove(x, node, user) end
    end
  end
  set_count(x, node, count)
else
  for _, user in ipairs(call('HKEYS', members_of(x, node))) do remove(x, node, user) end
  set_count(x, node, nil)
end
if whole then
  for old in string.gmatch(former, '%x+') do
    for _, user in ipairs(call('HKEYS', members_of(x, old))) do remove(x, old, user) end
    set_count(x, old, nil)
  end
end
if keep > 0 and call('SET', T .. ':e:' .. K, cached, 'PX', num(keep), 'NX') then
  call('DEL', T .. ':miss:' .. K)
  -- Nodes that have begun to listen before found nothing.
  x.skips = x.seq ~= nil
end
local seq = close(x)

local answer = {'OK', id or '0', num(seq), refused}
if snapshot then
  local counts, members = call('HGETALL', x.n), {}
  for i = 1, #counts, 2 do
    if counts[i] ~= node then
      members[#members + 1] = counts[i]
      members[#members + 1] = call('HGETALL', members_of(x, counts[i]))
    end
  end
  local e = T .. ':e:' .. K
  local settling = now - (tonumber(created) or 0) < window
  answer[5] = {counts, members, call('GET', e) or '', call('PTTL', e), settling and 1 or 0}
end
return answer
