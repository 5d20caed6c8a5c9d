-- Gives up names of a node: what is still held under them is to be withdrawn. ARGV: names. Gives how
-- many nodes are left, and who is to be withdrawn.
for _, node in ipairs(ARGV) do
  call('ZREM', T .. ':nodes', node)
  call('SADD', T .. ':gone', node)
  if call('GET', T .. ':teller') == node then call('DEL', T .. ':teller') end
end
return {call('ZCARD', T .. ':nodes'), call('SMEMBERS', T .. ':gone')}
