//! A session store: typed values that live for half an hour after their last use, by `touch`, and are never code.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use larder::{Cache, Ttl, Typed};
use serde::{Deserialize, Serialize};

/// Change this type, and change the schema number below with it: sessions of the old one are then misses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Session {
    user: String,
    basket: Vec<u32>,
}

const SCHEMA: u32 = 1;
const IDLE: Ttl = Ttl::mins(30);

/// The session of a request, which prolongs it.
fn resume(cache: &Cache, sessions: &Typed<Session>, id: &str) -> larder::Result<Option<Session>> {
    cache.touch(id, IDLE)?;
    sessions.get(id)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    // A clock of our own, so that nobody has to wait; leave `clock` out for the system's.
    let now = Arc::new(AtomicU64::new(1_800_000_000_000));
    let hand = now.clone();
    // With a key that only the application knows, nobody who can write the directory can make up a session.
    let options = Cache::file(dir.path()).clock(move || hand.load(Ordering::Relaxed)).mac_key([7; 32]);
    let cache = options.open()?.namespace("sessions");
    let sessions = cache.typed::<Session>(SCHEMA);
    let minutes = |n: u64| now.fetch_add(n * 60_000, Ordering::Relaxed);

    let mut session = Session { user: "ada".to_owned(), basket: vec![] };
    assert!(sessions.add("id-1", &session, IDLE)?, "the id is new");
    assert!(!sessions.add("id-1", &session, IDLE)?, "nobody else gets it");
    minutes(20);
    session.basket.push(42);
    assert!(sessions.replace("id-1", &session, IDLE.tag("user:ada"))?, "it's still there, and changed");
    for _ in 0..5 {
        minutes(20);
        assert_eq!(resume(&cache, &sessions, "id-1")?.as_ref(), Some(&session), "each use prolongs it");
    }

    // Log out everywhere.
    cache.invalidate_tag("user:ada")?;
    assert_eq!(resume(&cache, &sessions, "id-1")?, None);

    sessions.set("id-2", &session, IDLE)?;
    assert_eq!(cache.typed::<String>(SCHEMA + 1).get("id-2")?, None, "another schema doesn't misread it");
    minutes(30);
    assert_eq!(resume(&cache, &sessions, "id-2")?, None, "half an hour of silence ends it");
    println!("sessions came and went");
    Ok(())
}
