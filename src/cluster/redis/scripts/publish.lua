-- Caches an event and tells it to those who listen. ARGV: topic, milliseconds, event.
local K, keep, event = ARGV[1], tonumber(ARGV[2]), ARGV[3]
if keep > 0 then
  call('SET', T .. ':e:' .. K, event, 'PX', num(keep))
end
call('DEL', T .. ':miss:' .. K)
local t = T .. ':t:' .. K
if call('EXISTS', t) == 1 then
  local seq = call('HINCRBY', t, 'seq', 1)
  local world = string.match(call('GET', T .. ':world') or '', '^%x+') or '0'
  call('SPUBLISH', T .. ':' .. K, 'E' .. str(world) .. str(num(seq)) .. str(num(keep)) .. event)
end
return 1
