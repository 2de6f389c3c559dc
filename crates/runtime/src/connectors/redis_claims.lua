-- Says again that entries are this consumer's, of those that still are: the look and the claim are one step, so that
-- nothing is claimed back from a consumer that has taken it over in between.
--
-- KEYS[1] stream, ARGV[1] group, ARGV[2] consumer, ARGV[3] idle milliseconds to set, ARGV[4…] ids.
-- For each id: how often it was delivered; -1 if it is another's or done; -2 if the stream has lost it to trimming.
local out = {}
for i = 4, #ARGV do
  local id = ARGV[i]
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
  if pending and pending[2] ~= ARGV[2] then
    out[#out + 1] = -1
  elseif #redis.call('XRANGE', KEYS[1], id, id) == 0 then
    out[#out + 1] = -2
  elseif not pending then
    out[#out + 1] = -1
  else
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'IDLE', ARGV[3], 'JUSTID')
    out[#out + 1] = pending[4]
  end
end
return out
