//! Hearing of changes that others make: a connection of its own, on which the server tells of every key of this cache that
//! was changed (`CLIENT TRACKING` in broadcast mode, RESP3, Redis 6).
//!
//! The server tells of names, which are hashes; whose they are is remembered from the time of their reading. While nobody
//! listens nothing is said to be known: when a connection is lost, and again when the next one is there, everything may have
//! changed.

use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use redis::{PushKind, Value as Answer, cmd};

use super::Local;
use super::client::Connection;
use crate::backend::Listener;
use crate::backend::net::breaker::Trouble;
use crate::backend::net::config::Remote;
use crate::backend::net::node::Connection as _;
use crate::backend::net::wire::{Until, here};
use crate::error::{Error, Result};
use crate::key::Id;

/// How long nothing may be heard before the server is asked whether it's there, and how soon a listener that nobody needs
/// any more ends.
const TICK: Duration = Duration::from_millis(500);
/// Listens, on a thread of its own, for as long as the listener lives.
pub(super) fn listen(remote: Remote, local: Arc<Local>, listener: Weak<dyn Listener>) -> Result<()> {
    local.heard.begin(listener.clone());
    let listening = move || {
        let mut pause = Duration::from_millis(20);
        while listener.strong_count() > 0 {
            if let Ok(connection) = connect(&remote, &local) {
                pause = Duration::from_millis(20);
                tell_all(&local, &listener, true);
                // Whatever ends it: from here on nothing is heard.
                let _ = hear(connection, &remote, &local, &listener);
                tell_all(&local, &listener, false);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    };
    let spawned = std::thread::Builder::new().name("larder-listen".to_owned()).spawn(listening);
    spawned.map(drop).map_err(|e| Error::io("can't start a thread that listens", e))
}

fn tell_all(local: &Local, listener: &Weak<dyn Listener>, hears: bool) {
    local.heard.forget();
    if let Some(listener) = listener.upgrade() {
        listener.hears(hears);
        listener.all_changed();
    }
}

fn connect(remote: &Remote, local: &Local) -> Result<Connection, Trouble> {
    let mut tracking = cmd("CLIENT");
    tracking.arg("TRACKING").arg("ON").arg("BCAST");
    for part in &local.parts {
        tracking.arg("PREFIX").arg(part.key('e', "")).arg("PREFIX").arg(&part.hash);
    }
    let until = Until::after(remote.connect_timeout + remote.read_timeout);
    let server = here(local.client.server(until)).map_err(Trouble::Error)?;
    here(Connection::open_with(remote, &server, until, 3, &[tracking]))
}

/// Until the connection is lost, or nobody needs it.
fn hear(mut connection: Connection, remote: &Remote, local: &Local, listener: &Weak<dyn Listener>) -> io::Result<()> {
    let mut asked: Option<Instant> = None;
    while let Some(to) = listener.upgrade() {
        match here(connection.receive(Until::after(TICK))) {
            Ok(Answer::Push { kind: PushKind::Invalidate, data }) => tell(local, &*to, &data),
            Ok(_) => asked = None,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => match asked {
                Some(since) if since.elapsed() > remote.read_timeout => return Err(error),
                Some(_) => {}
                None => {
                    let bound = Until::after(remote.write_timeout);
                    here(connection.send(&cmd("PING").get_packed_command(), bound))?;
                    asked = Some(Instant::now());
                }
            },
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn tell(local: &Local, listener: &dyn Listener, data: &[Answer]) {
    for keys in data {
        let Answer::Array(keys) = keys else {
            // The server was flushed.
            local.heard.forget();
            return listener.all_changed();
        };
        for key in keys {
            let Answer::BulkString(key) = key else { continue };
            if local.parts.iter().any(|part| part.hash == *key) {
                // Something was cleared or invalidated, which concerns whoever carries it.
                local.heard.forget();
                listener.all_changed();
                continue;
            }
            let name = key.rsplit(|byte| *byte == b':').next().and_then(|name| std::str::from_utf8(name).ok());
            let id = name.and_then(|name| local.heard.take(name));
            if let Some(id) = id.as_deref().and_then(Id::parse) {
                listener.changed(id);
            }
        }
    }
}
