-- Renews a node's lease, and finds those who did not. ARGV: node, lease in milliseconds, the node's
-- former names that are not replaced yet.
-- Gives whether the node is the one that tells, and who is to be withdrawn.
local node, lease = ARGV[1], tonumber(ARGV[2])
if not call('ZSCORE', T .. ':nodes', node) then return {'GONE'} end
call('ZADD', T .. ':nodes', num(now + lease), node)
for old in string.gmatch(ARGV[3], '%x+') do
  call('ZADD', T .. ':nodes', 'XX', num(now + lease), old)
end
for _, dead in ipairs(call('ZRANGEBYSCORE', T .. ':nodes', '-inf', num(now), 'LIMIT', 0, 100)) do
  call('ZREM', T .. ':nodes', dead)
  call('SADD', T .. ':gone', dead)
end
local teller = call('GET', T .. ':teller')
if not teller or teller == node then
  call('SET', T .. ':teller', node, 'PX', num(lease))
  teller = node
end
return {'OK', teller == node and 1 or 0, call('SRANDMEMBER', T .. ':gone', 16)}
