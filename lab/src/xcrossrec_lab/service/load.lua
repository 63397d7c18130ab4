-- wrk's part of load.py: sends the bodies of a file in turn, counts answers by status.
-- Arguments after "--": the file of bodies (one JSON object a line), the delay before each request in milliseconds.
local threads = {}

function setup(thread)
  thread:set("number", #threads)
  table.insert(threads, thread)
end

function init(args)
  bodies = {}
  for line in io.lines(args[1]) do bodies[#bodies + 1] = line end
  wait_ms = tonumber(args[2] or "0")
  place = math.floor(number * #bodies / 2)
  ok, busy, other = 0, 0, 0
  math.randomseed(number + 1)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
end

function delay()
  return wait_ms == 0 and 0 or math.random(0, 2 * wait_ms)
end

function request()
  place = place % #bodies + 1
  return wrk.format(nil, nil, nil, bodies[place])
end

function response(status)
  if status == 200 then ok = ok + 1 elseif status == 429 then busy = busy + 1 else other = other + 1 end
end

function done(summary, latency)
  local ok, busy, other = 0, 0, 0
  for _, thread in ipairs(threads) do
    ok, busy, other = ok + thread:get("ok"), busy + thread:get("busy"), other + thread:get("other")
  end
  local e = summary.errors
  print(string.format(
    'RESULT {"seconds": %.3f, "ok": %d, "busy": %d, "other": %d, "connect": %d, "read": %d, "write": %d, "timeout": %d}',
    summary.duration / 1e6, ok, busy, other, e.connect, e.read, e.write, e.timeout))
end
