-- Somebody found an empty cache. ARGV: topic.
local K = ARGV[1]
if call('EXISTS', T .. ':e:' .. K) == 0 and call('SET', T .. ':miss:' .. K, '1', 'NX') then
  -- Where nobody holds the topic any more, nothing would ever take the mark away.
  if call('EXISTS', T .. ':t:' .. K) == 0 then call('DEL', T .. ':miss:' .. K) end
  hook('M' .. str(K), now)
end
return 1
