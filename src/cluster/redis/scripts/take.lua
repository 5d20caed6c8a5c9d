-- Takes what is to be told by now. ARGV: node, how many, '1' to take what is not due yet as well.
-- Gives milliseconds until the next is due (-1: nothing waits), then the entries, each with a number.
local node, most, all = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local hooks = T .. ':hooks'
if not all and call('GET', T .. ':teller') ~= node then return {-1} end
local answer = {-1}
local function give(entry)
  call('ZREM', hooks, entry)
  local sum = 0
  if string.sub(entry, 1, 1) == 'N' then
    local K = string.match(entry, '^N%d+:(.*)$')
    sum = tonumber(call('HGET', T .. ':t:' .. K, 'sum') or nil) or 0
  end
  answer[#answer + 1] = entry
  answer[#answer + 1] = sum
end
for _, entry in ipairs(call('ZRANGEBYSCORE', hooks, '-inf', all and '+inf' or num(now), 'LIMIT', 0, most)) do
  -- Whatever the clock did: nobody goes who has not come.
  if string.sub(entry, 1, 1) == 'D' and call('ZSCORE', hooks, 'A' .. string.sub(entry, 2)) then
    give('A' .. string.sub(entry, 2))
  end
  if call('ZSCORE', hooks, entry) then give(entry) end
end
local first = call('ZRANGE', hooks, 0, 0, 'WITHSCORES')
if first[2] then answer[1] = math.max(0, tonumber(first[2]) - now) end
return answer
