-- Enters a node. ARGV: node, lease in milliseconds, a name for the world if there is none, the node's
-- former names that it will replace, those that it will not (both by commas).
local node, lease = ARGV[1], tonumber(ARGV[2])
call('SET', T .. ':world', ARGV[3] .. ':' .. num(now), 'NX')
call('ZADD', T .. ':nodes', num(now + lease), node)
local teller = call('GET', T .. ':teller')
for old in string.gmatch(ARGV[4], '%x+') do
  -- They are kept until the node has written everything under its new name.
  call('ZADD', T .. ':nodes', 'XX', num(now + lease), old)
  if teller == old then call('SET', T .. ':teller', node, 'PX', num(lease)) end
end
for old in string.gmatch(ARGV[5], '%x+') do
  call('ZREM', T .. ':nodes', old)
  call('SADD', T .. ':gone', old)
end
return {'OK'}
