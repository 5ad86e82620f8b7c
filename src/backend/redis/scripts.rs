//! What has to happen in one step on the server. Pure.
//!
//! `KEYS` are the entry, its lease, the hash of its part and keys of scopes, which one slot has. The state of an entry is
//! `length:nonce`, which only an absent one shares with another.

use std::sync::LazyLock;

use redis::{Cmd, Script, cmd};

use crate::format::header::{AT_GENERATION, AT_ID_LEN, AT_NONCE, HEADER_LEN};

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

/// The id of a scope, whose key then lasts for `need` milliseconds at least (empty: for ever), and where it's changed for
/// `long`. One of another epoch counts as absent; an absent one is made from `fresh`, or is empty where that is.
const SCOPE: &str = "
local function scope(key, epoch, need, long, fresh)
  local value = redis.call('GET', key)
  if value and string.sub(value, 1, 8) == epoch then
    local left = redis.call('PTTL', key)
    if left >= 0 and need == '' then redis.call('PERSIST', key)
    elseif left >= 0 and left < tonumber(need) then redis.call('PEXPIRE', key, long) end
    return string.sub(value, 9)
  end
  if fresh == '' then return '' end
  if need == '' then redis.call('SET', key, epoch .. fresh)
  else redis.call('SET', key, epoch .. fresh, 'PX', long) end
  return fresh
end
";

/// `STORE epoch state bytes px word since need long fresh n {id early floor}… stood…`: puts `bytes` in place, or nothing
/// where they are empty.
///
/// The part must have the epoch. `state`: what is there must be in it (empty: may be in any). `word`: of the lease that must
/// be held. `n` keys of scopes follow in `KEYS`: each must have the `id` that is in the bytes. `since`: of a scope whose id
/// isn't `early` the floor must not be above this generation (empty: nothing depends on it). The other keys are those of
/// scopes that what is there stood under: they must still have their ids.
///
/// Answers 1 (done), 0 (invalidated, or the lease is lost), 2 (another state than was expected), or {epoch, ids…}: those
/// that there are instead, or the epoch alone.
const STORE: &str = "
local epoch, late = redis.call('HGET', KEYS[3], 'e'), ARGV[6] ~= ''
if epoch ~= ARGV[1] then return late and 0 or {epoch or ''} end
if ARGV[5] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[5] then return 0 end
if ARGV[2] ~= '' and state(KEYS[1]) ~= ARGV[2] then return 2 end
local n = tonumber(ARGV[10])
for i = n + 4, #KEYS do
  if redis.call('GET', KEYS[i]) ~= epoch .. ARGV[7 + 2 * n + i] then return 2 end
end
local ids, same = {epoch}, true
for i = 1, n do
  local id = scope(KEYS[3 + i], epoch, ARGV[7], ARGV[8], ARGV[9])
  ids[i + 1] = id
  same = same and id == ARGV[8 + 3 * i]
  if late and id ~= ARGV[9 + 3 * i] then
    local floor = redis.call('HGET', KEYS[3], ARGV[10 + 3 * i])
    if floor and tonumber(floor) > tonumber(ARGV[6]) then return 0 end
  end
end
if ARGV[3] == '' then
  redis.call('DEL', KEYS[1], KEYS[2])
  return 1
end
if not same then return ids end
if ARGV[4] == '' then redis.call('SET', KEYS[1], ARGV[3])
else redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4]) end
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

/// `TOUCH state bytes px need long epoch ids…`: new bytes for the expiry, and time for the scopes, whose keys follow that of
/// the part. Answers 1, or 0 where the state is another or they have other ids.
const TOUCH: &str = "
if redis.call('HGET', KEYS[2], 'e') ~= ARGV[6] or state(KEYS[1]) ~= ARGV[1] then return 0 end
for i = 3, #KEYS do
  if scope(KEYS[i], ARGV[6], ARGV[4], ARGV[5], '') ~= ARGV[4 + i] then return 0 end
end
redis.call('SETRANGE', KEYS[1], 8, ARGV[2])
if ARGV[3] == '' then redis.call('PERSIST', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 1
";

/// `FIND epoch generation leases need long fresh`: finds or makes epoch and generation, and the ids of the scopes whose keys
/// follow that of the part; notes that there are leases (1). Where all is there already nothing is written, as near tiers
/// are told of each write. Answers {epoch, generation, ids…}.
const FIND: &str = "
local found = redis.call('HMGET', KEYS[1], 'e', 'g')
if not (found[1] and found[2]) then
  found = {ARGV[1], ARGV[2]}
  redis.call('HSET', KEYS[1], 'e', ARGV[1], 'g', ARGV[2])
end
if ARGV[3] == '1' then redis.call('HSETNX', KEYS[1], 'l', 1) end
for i = 2, #KEYS do found[i + 1] = scope(KEYS[i], found[1], ARGV[4], ARGV[5], ARGV[6]) end
return found
";

/// `CLEAR epoch generation`: a new epoch, in which no older entry counts. The generation grows.
const CLEAR: &str = "
local was = tonumber(redis.call('HGET', KEYS[1], 'g') or '0')
local new = string.format('%.0f', math.max(was + 1, tonumber(ARGV[2])))
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'e', ARGV[1], 'g', new)
return new
";

/// `INVALIDATE floor generation`: takes a scope's id away. Where there is no epoch nothing is valid anyway.
const INVALIDATE: &str = "
local was = redis.call('HGET', KEYS[1], 'g')
if was then
  local new = string.format('%.0f', math.max(tonumber(was) + 1, tonumber(ARGV[2])))
  redis.call('HSET', KEYS[1], 'g', new, ARGV[1], new)
end
return redis.call('DEL', KEYS[2])
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

/// `SWEEP epoch`: removes those of the `KEYS` that are entries or scopes of an epoch that is over.
const SWEEP: &str = "
local n = 0
for i = 1, #KEYS do
  local head = redis.call('GETRANGE', KEYS[i], 0, 159)
  local epoch = #head == 16 and string.sub(head, 1, 8) or #head == 160 and string.sub(head, 105, 112)
  if epoch and epoch ~= ARGV[1] then n = n + redis.call('UNLINK', KEYS[i]) end
end
return n
";
const _: () = assert!(AT_GENERATION == 104);

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
    Find,
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
    let both = [HEAD, SCOPE].concat();
    let texts = [(&*both, STORE), (HEAD, TAKE), (HEAD, LOOK), (&*both, TOUCH), (SCOPE, FIND), ("", CLEAR)];
    let texts = texts.into_iter().chain([
        ("", INVALIDATE),
        ("", LEASE),
        ("", RENEW),
        ("", RELEASE),
        ("", SWEEP),
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
