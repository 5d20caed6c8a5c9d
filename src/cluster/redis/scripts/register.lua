-- Enters a node. ARGV: node, lease in milliseconds, a name for the world if there is none, the node's
-- former names that it will replace, those that it will not (both by commas),
-- the world that it knew or ''. Gives the world.
local node, lease = ARGV[1], tonumber(ARGV[2])
call('SET', T .. ':world', ARGV[3] .. ':0', 'NX')
-- A world settles from when it is found to stand in for another: whoever knew that may have to write its
-- share once more.
local world, since = string.match(call('GET', T .. ':world'), '^(%x+):(%d+)$')
if ARGV[6] ~= '' and ARGV[6] ~= world and since == '0' then
  call('SET', T .. ':world', (world or ARGV[3]) .. ':' .. num(now))
end
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
return {'OK', world or ARGV[3]}
