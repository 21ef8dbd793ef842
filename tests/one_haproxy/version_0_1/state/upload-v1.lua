-- Reads the body of a request that the guard refuses and throws it away, in bounds; the guard's http-response rules then
-- make the answer. Without this, HAProxy before 3.0 answers at once and closes, and a client that writes its whole body
-- before it reads sees a broken connection instead of the 503.
--
-- Beyond the bounds the answer is given at once and the connection closed, as without this file. To have others:
-- "setenv LBAGENT_UPLOAD_BYTES 1000000" and "setenv LBAGENT_UPLOAD_SECONDS 10" in HAProxy's global section.

local BYTES, SECONDS = 1024 * 1024 * 1024, 120
local SILENCE = 10 -- seconds: HAProxy does not look at "timeout client" here (2.6)
local PIECE = 1024 -- bytes at a time; fewer, at the end of a burst, are not counted
local TRIES, PAUSE = 5, 20 -- where there is nothing to read: look again so often, then wait up to so many milliseconds
local HEADERS = 1024 * 1024 -- receive() counts those too (2.6), and gives "" for them: more than any buffer holds

local function bound(name, default)
  return tonumber(os.getenv("LBAGENT_UPLOAD_" .. name)) or default
end

local function seconds()
  local now = core.now()
  return now.sec + now.usec / 1000000
end

-- What is there now: up to size bytes, "" at the end, nil where it would have to wait. receive() itself waits for as
-- long as the client is silent. Its way to wait is a yield, and in Lua that is an error inside of gsub.
local function take(applet, size)
  local data
  pcall(string.gsub, "x", "x", function()
    data = applet:receive(size)
  end)
  return data
end

-- All that is there: how many bytes were asked for, whether there was any, whether the body has ended.
local function burst(applet, begun)
  local asked, any = 0, false
  local size = 1
  local data = take(applet, size)
  while data do
    asked = asked + size
    if data ~= "" then
      any = true
    elseif begun or any or asked > HEADERS then
      return asked, any, true
    end
    size = PIECE
    data = take(applet, size)
  end
  return asked, any, false
end

local function read(applet)
  local now = seconds()
  local left, deadline, heard = bound("BYTES", BYTES), now + bound("SECONDS", SECONDS), now
  local begun, idle = false, 0
  while left >= 0 and now <= deadline and now <= heard + SILENCE do
    local asked, any, ended = burst(applet, begun)
    if ended then
      return
    end
    left, idle = left - asked, idle + 1
    if any then
      begun, idle, heard = true, 0, now
    end
    if idle < TRIES then
      core.yield()
    else
      core.msleep(math.min(idle - TRIES + 1, PAUSE))
    end
    now = seconds()
  end
end

core.register_service("lbagent_upload", "http", function(applet)
  read(applet)
  applet:set_status(503)
  applet:start_response()
end)
