//! Larder on Redis and Memcached beside the bare clients of the same servers, in turn, in one run: what the contract
//! costs on top of a round trip. The servers are this program's own, on this machine.

use std::hint::black_box;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use larder::{Cache, Ttl};
use redis::Commands;

pub(crate) const REMOTE: &str = "remote";

/// Keys that are read and written.
const KEYS: usize = 1000;
const VALUE: usize = 256;
/// Keys of a many-form.
const MANY: usize = 100;

struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(program: &str, arguments: fn(&str) -> Vec<String>) -> Result<Server, String> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
        let port = listener.local_addr().map_err(|e| e.to_string())?.port();
        drop(listener);
        let mut command = Command::new(program);
        command.args(arguments(&port.to_string())).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|e| format!("{program}: {e}"))?;
        let server = Server { child, port };
        for _ in 0..1000 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(server);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(format!("{program} doesn't answer"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// How a figure compares, and to what it's held.
struct Table {
    rounds: usize,
    met: bool,
}

impl Table {
    /// Runs both in turn; the ratio is the median of the rounds'.
    fn compare(&mut self, what: &str, calls: usize, goal: f64, mut ours: impl FnMut(), mut bare: impl FnMut()) {
        let time = |run: &mut dyn FnMut()| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1e6 / calls as f64
        };
        (ours(), bare());
        let mut rounds: Vec<(f64, f64)> = (0..self.rounds).map(|_| (time(&mut ours), time(&mut bare))).collect();
        rounds.sort_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
        let (mine, other) = rounds[rounds.len() / 2];
        let ratio = mine / other;
        let holds = ratio <= goal;
        self.met &= holds;
        let verdict = if holds { "holds" } else { "does not hold" };
        println!("{what:<36} {mine:>9.2} {other:>9.2} {ratio:>7.2} {goal:>6.2}  {verdict}");
    }
}

/// Prints the table; whether every figure holds.
pub(crate) fn run(args: &[String]) -> Result<bool, String> {
    let quick = args.iter().any(|arg| arg == "--quick");
    let mut table = Table { rounds: if quick { 3 } else { 31 }, met: true };
    println!("{:<36} {:>9} {:>9} {:>7} {:>6}", "µs a call", "Larder", "bare", "ratio", "goal");
    redis(&mut table)?;
    memcached(&mut table)?;
    Ok(table.met)
}

fn redis(table: &mut Table) -> Result<(), String> {
    let text = |e: redis::RedisError| e.to_string();
    let server = Server::start("redis-server", |port| {
        words(&format!("--port {port} --bind 127.0.0.1 --save  --appendonly no"))
    })?;
    let address = format!("redis://127.0.0.1:{}", server.port);
    let open = |more: &str| Cache::from_url(&format!("{address}?{more}")).map_err(|e| e.to_string());
    let (cache, raw) = (open("prefix=a")?, open("prefix=b&raw=true")?);
    let client = redis::Client::open(address.clone()).map_err(text)?;
    let mut bare = client.get_connection_with_timeout(Duration::from_secs(1)).map_err(text)?;
    bare.set_read_timeout(Some(Duration::from_secs(1))).map_err(text)?;
    let keys: Vec<String> = (0..KEYS).map(|i| format!("key:{i:012}")).collect();
    let value = vec![7u8; VALUE];
    let set_bare = |bare: &mut redis::Connection| {
        for key in &keys {
            let _: () = bare.pset_ex(format!("c:{key}"), &value, 3_600_000).expect("set");
        }
    };
    for (name, cache, goal) in [("raw", &raw, 1.1), ("with generations", &cache, 1.3)] {
        let set = || keys.iter().for_each(|key| cache.set(key, &value, Ttl::hours(1)).expect("set"));
        table.compare(&format!("Redis, set, {name}"), KEYS, goal, set, || set_bare(&mut bare));
        let get = || keys.iter().for_each(|key| drop(black_box(cache.get(key).expect("get").expect("a hit"))));
        table.compare(&format!("Redis, get, {name}"), KEYS, goal, get, || {
            for key in &keys {
                let _: Vec<u8> = black_box(bare.get(format!("c:{key}")).expect("get"));
            }
        });
        let some = &keys[..MANY];
        let get_many = || assert_eq!(black_box(cache.get_many(some).expect("get_many")).len(), MANY);
        table.compare(&format!("Redis, get_many of {MANY}, {name}"), 1, 1.2, get_many, || {
            let mut pipe = redis::pipe();
            for key in some {
                pipe.get(format!("c:{key}"));
            }
            let values: Vec<Vec<u8>> = black_box(pipe.query(&mut bare).expect("a pipeline"));
            assert_eq!(values.len(), MANY);
        });
        let set_many = || {
            let items = some.iter().map(|key| (key, &value));
            assert!(cache.set_many(items, Ttl::hours(1)).expect("set_many").is_empty());
        };
        table.compare(&format!("Redis, set_many of {MANY}, {name}"), 1, 2.0, set_many, || {
            let mut pipe = redis::pipe();
            for key in some {
                pipe.pset_ex(format!("c:{key}"), &value, 3_600_000).ignore();
            }
            let () = pipe.query(&mut bare).expect("a pipeline");
        });
    }
    let far = larder::Options::from_url(&format!("{address}?prefix=a")).map_err(|e| e.to_string())?;
    let tiered = Cache::tiered(Cache::memory(), far).near_ttl(Duration::from_secs(600)).open();
    let tiered = tiered.map_err(|e| e.to_string())?;
    let get = |cache: &Cache| keys.iter().for_each(|key| drop(black_box(cache.get(key).expect("get").expect("a hit"))));
    table.compare("memory before Redis, hit, and Redis", KEYS, 0.05, || get(&tiered), || get(&cache));
    Ok(())
}

fn memcached(table: &mut Table) -> Result<(), String> {
    let text = |e: memcache::MemcacheError| e.to_string();
    let server = Server::start("memcached", |port| words(&format!("-l 127.0.0.1 -p {port} -U 0 -u root -m 256")))?;
    let address = format!("memcached://127.0.0.1:{}", server.port);
    let open = |more: &str| Cache::from_url(&format!("{address}?{more}")).map_err(|e| e.to_string());
    let (cache, raw) = (open("prefix=a")?, open("prefix=b&raw=true")?);
    let bare = format!("memcache://127.0.0.1:{}?timeout=1&protocol=ascii", server.port);
    let bare = memcache::Client::with_pool_size(bare, 1).map_err(text)?;
    let keys: Vec<String> = (0..KEYS).map(|i| format!("key:{i:012}")).collect();
    let value = vec![7u8; VALUE];
    for (name, cache, goal) in [("raw", &raw, 1.1), ("with generations", &cache, 1.3)] {
        let set = || keys.iter().for_each(|key| cache.set(key, &value, Ttl::hours(1)).expect("set"));
        table.compare(&format!("Memcached, set, {name}"), KEYS, goal, set, || {
            keys.iter().for_each(|key| bare.set(&format!("c:{key}"), &value[..], 3600).expect("set"));
        });
        let get = || keys.iter().for_each(|key| drop(black_box(cache.get(key).expect("get").expect("a hit"))));
        table.compare(&format!("Memcached, get, {name}"), KEYS, goal, get, || {
            for key in &keys {
                let _: Option<Vec<u8>> = black_box(bare.get(&format!("c:{key}")).expect("get"));
            }
        });
        let some = &keys[..MANY];
        let named: Vec<String> = some.iter().map(|key| format!("c:{key}")).collect();
        let named: Vec<&str> = named.iter().map(String::as_str).collect();
        let get_many = || assert_eq!(black_box(cache.get_many(some).expect("get_many")).len(), MANY);
        table.compare(&format!("Memcached, get_many of {MANY}, {name}"), 1, 1.2, get_many, || {
            let found: std::collections::HashMap<String, Vec<u8>> = black_box(bare.gets(&named).expect("gets"));
            assert_eq!(found.len(), MANY);
        });
    }
    Ok(())
}
