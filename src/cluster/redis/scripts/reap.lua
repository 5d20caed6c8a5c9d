-- Withdraws some of what a gone node holds. ARGV: node, how much. Gives whether that was all, and how
-- many topics were withdrawn.
local node, budget = ARGV[1], tonumber(ARGV[2])
local topics = 0
while budget > 0 do
  local K = call('SRANDMEMBER', T .. ':held:' .. node)
  if not K then
    call('SREM', T .. ':gone', node)
    return {1, topics}
  end
  local x = open(K)
  local users = call('HRANDFIELD', members_of(x, node), budget)
  for _, user in ipairs(users) do remove(x, node, user) end
  budget = budget - #users - 1
  if call('EXISTS', members_of(x, node)) == 0 then
    set_count(x, node, nil)
    topics = topics + 1
  end
  close(x)
end
return {0, topics}
