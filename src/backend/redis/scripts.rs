//! What has to happen in one step on the server. Pure.
//!
//! `KEYS` are the entry, its lease and the generations of its part, which one slot has. The state of an entry is
//! `length:nonce`, which only an absent one shares with another.

use std::sync::LazyLock;

use redis::{Cmd, Script, cmd};

use crate::format::header::{AT_ID_LEN, AT_NONCE, HEADER_LEN};

/// The beginning of an entry up to its value.
const HEAD: &str = "
local function head(key)
  local head = redis.call('GETRANGE', key, 0, 159)
  if #head == 160 then
    local id, meta = struct.unpack('<I4I4', head, 61)
    if id + meta > 0 then head = redis.call('GETRANGE', key, 0, 159 + id + meta) end
  end
  return head
end
local function state(key)
  return redis.call('STRLEN', key) .. ':' .. redis.call('GETRANGE', key, 112, 127)
end
";
const _: () = assert!(HEADER_LEN == 160 && AT_ID_LEN == 60 && AT_NONCE == 112);

/// `STORE epoch generation state bytes px word since fields…`: puts `bytes` in place, or nothing where they are empty.
///
/// Of generations: either the current one is `generation` (`since` is empty), or nothing in `fields` was invalidated
/// after `since`. `state`: what is there must be in it (empty: may be in any). `word`: of the lease that must be held.
///
/// Answers 1 (done), 0 (invalidated, or the lease is lost), {epoch, generation} (others than were expected), or
/// {state, length, head} (another state than was expected).
const STORE: &str = "
local now = redis.call('HMGET', KEYS[3], 'e', 'g')
if ARGV[7] == '' then
  if now[1] ~= ARGV[1] or now[2] ~= ARGV[2] then return {now[1] or '', now[2] or ''} end
else
  if now[1] ~= ARGV[1] then return 0 end
  if ARGV[6] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[6] then return 0 end
  local floors = redis.call('HMGET', KEYS[3], unpack(ARGV, 8))
  for i = 1, #floors do
    if floors[i] and tonumber(floors[i]) > tonumber(ARGV[7]) then return 0 end
  end
end
if ARGV[3] ~= '' then
  local is = state(KEYS[1])
  if is ~= ARGV[3] then return {is, redis.call('STRLEN', KEYS[1]), head(KEYS[1])} end
end
if ARGV[4] == '' then
  redis.call('DEL', KEYS[1], KEYS[2])
  return 1
end
if ARGV[5] == '' then redis.call('SET', KEYS[1], ARGV[4])
else redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5]) end
redis.call('DEL', KEYS[2])
return 1
";

/// `TAKE`: removes an entry and voids its lease. Answers {length, head} of what was there.
const TAKE: &str = "
local was = {redis.call('STRLEN', KEYS[1]), head(KEYS[1])}
redis.call('DEL', KEYS[1], KEYS[2])
return was
";

/// `LOOK`: {length, head}.
const LOOK: &str = "return {redis.call('STRLEN', KEYS[1]), head(KEYS[1])}";

/// `TOUCH state bytes px`: new bytes for the expiry. Answers 1, or 0 where the state is another.
const TOUCH: &str = "
if state(KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SETRANGE', KEYS[1], 8, ARGV[2])
if ARGV[3] == '' then redis.call('PERSIST', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 1
";

/// `BEGIN epoch generation leases`: makes the generations where there are none, and notes that there are leases (1). Where
/// all is there already nothing is written, as near tiers are told of each write.
/// Answers {epoch, generation}.
const BEGIN: &str = "
if redis.call('HSETNX', KEYS[1], 'e', ARGV[1]) == 1 then redis.call('HSET', KEYS[1], 'g', ARGV[2]) end
if ARGV[3] == '1' then redis.call('HSETNX', KEYS[1], 'l', 1) end
return redis.call('HMGET', KEYS[1], 'e', 'g')
";

/// `CLEAR epoch generation`: a new epoch, in which no older entry counts. The generation grows.
const CLEAR: &str = "
local was = tonumber(redis.call('HGET', KEYS[1], 'g') or '0')
local new = string.format('%.0f', math.max(was + 1, tonumber(ARGV[2])))
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'e', ARGV[1], 'g', new)
return new
";

/// `INVALIDATE field`: what was set in a generation before the one that begins now counts no more.
const INVALIDATE: &str = "
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local new = redis.call('HINCRBY', KEYS[1], 'g', 1)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', new))
return new
";

/// `LEASE word ms seen`: takes a lease that is free, or a note of another one than `seen`. Answers 1, or what is there.
const LEASE: &str = "
local now = redis.call('GET', KEYS[1])
if now and now ~= ARGV[1] and (string.len(now) == 8 or string.sub(now, 2, 9) == ARGV[3]) then return now end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
";

/// `RENEW word ms`: makes a lease last that is still held. Answers 1, or 0.
const RENEW: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
";

/// `RELEASE word note ms`: gives a lease up that is still held, and leaves the note in its place (empty: none).
const RELEASE: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then return redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
";

/// `SWEEP epoch`: removes those of the `KEYS` that are entries of an epoch that is over.
const SWEEP: &str = "
local n = 0
for i = 1, #KEYS do
  local h = head(KEYS[i])
  if #h >= 160 and string.sub(h, 161 - 8 + struct.unpack('<I4', h, 65), 160 + struct.unpack('<I4', h, 65)) ~= ARGV[1] then
    n = n + redis.call('UNLINK', KEYS[i])
  end
end
return n
";

/// `SWAP old there new px`, of bare values: puts `new` in place of `old`, or nothing (`there` is 0).
const SWAP: &str = "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then redis.call('DEL', KEYS[1])
elseif ARGV[4] == '' then redis.call('SET', KEYS[1], ARGV[3])
else redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4]) end
return 1
";

/// `ADD by first px`, of bare values: the sum as text, for Lua's numbers have 53 bits. Nil: there is none, nor a first.
const ADD: &str = "
if redis.call('EXISTS', KEYS[1]) == 0 then
  if ARGV[2] == '' then return false end
  if ARGV[3] == '' then redis.call('SET', KEYS[1], ARGV[2])
  else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
else
  redis.call('INCRBY', KEYS[1], ARGV[1])
end
return redis.call('GET', KEYS[1])
";

#[derive(Clone, Copy)]
pub(super) enum Name {
    Store,
    Take,
    Look,
    Touch,
    Begin,
    Clear,
    Invalidate,
    Lease,
    Renew,
    Release,
    Sweep,
    Swap,
    Add,
}

/// Each script's text and its hash.
static SCRIPTS: LazyLock<[(String, String); 13]> = LazyLock::new(|| {
    let texts = [(HEAD, STORE), (HEAD, TAKE), (HEAD, LOOK), (HEAD, TOUCH), ("", BEGIN), ("", CLEAR)];
    let texts = texts.into_iter().chain([
        ("", INVALIDATE),
        ("", LEASE),
        ("", RENEW),
        ("", RELEASE),
        (HEAD, SWEEP),
        ("", SWAP),
        ("", ADD),
    ]);
    let mut scripts = texts.map(|(head, body)| {
        let text = [head, body].concat();
        let hash = Script::new(&text).get_hash().to_owned();
        (text, hash)
    });
    std::array::from_fn(|_| scripts.next().unwrap_or_default())
});

/// The call of a script by its hash, to which arguments may be added.
pub(super) fn call(name: Name, keys: &[&[u8]]) -> Cmd {
    let mut command = cmd("EVALSHA");
    command.arg(&*SCRIPTS[name as usize].1).arg(keys.len());
    for key in keys {
        command.arg(*key);
    }
    command
}

/// Whether the script of this hash changes nothing.
pub(super) fn only_reads(hash: &[u8]) -> bool {
    SCRIPTS[Name::Look as usize].1.as_bytes() == hash
}

/// The call of a script by its whole text, for a server that doesn't know its hash; it knows it from then on. `SCRIPT LOAD`
/// is never sent, as not every user may.
pub(super) fn in_full(command: &[u8]) -> Option<Vec<u8>> {
    SCRIPTS.iter().find_map(|(text, hash)| {
        let by_hash = format!("$7\r\nEVALSHA\r\n${}\r\n{hash}\r\n", hash.len());
        let at = command.windows(by_hash.len()).take(32).position(|some| some == by_hash.as_bytes())?;
        let by_text = format!("$4\r\nEVAL\r\n${}\r\n{text}\r\n", text.len());
        Some([&command[..at], by_text.as_bytes(), &command[at + by_hash.len()..]].concat())
    })
}
