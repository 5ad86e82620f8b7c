//! Plans: what a prune would remove, in a file, to be looked at and then applied.
//!
//! The first line says of which cache it is, each further one names an entry and, by its token, in which state. Only
//! entries that a get still returns are planned: all others are nobody's loss, and any prune removes them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use larder::{Cache, Entry, Reason, Removal, State};
use serde::{Deserialize, Serialize};

use crate::context::path_of;
use crate::directory::absolute;
use crate::exit_code::Failure;
use crate::output::json::{Key, field};
use crate::select::handle;
use crate::target_file::TargetFile;

const SCHEMA: &str = "larder.plan/1";

#[derive(Deserialize, Serialize)]
struct Head {
    schema: String,
    dir: String,
}

/// An entry that is to go.
#[derive(Deserialize, Serialize)]
pub struct Planned {
    #[serde(flatten)]
    pub key: Key,
    pub namespace: String,
    pub version: u64,
    pub reason: String,
    pub bytes: u64,
    pub token: String,
}

impl Planned {
    pub fn of(entry: &Entry, reason: &str) -> Planned {
        Planned {
            key: Key::of(&entry.key),
            namespace: entry.namespace.clone(),
            version: entry.version,
            reason: reason.to_owned(),
            bytes: entry.charged,
            token: entry.token.to_string(),
        }
    }
}

/// A plan that is being written.
pub struct Plan {
    file: TargetFile,
    pub entries: u64,
}

impl Plan {
    pub fn create(file: &Path, cache: &Cache) -> Result<Plan, Failure> {
        let mut plan = Plan { file: TargetFile::create(file)?, entries: 0 };
        plan.line(&Head { schema: SCHEMA.to_owned(), dir: absolute(path_of(cache)) })?;
        Ok(plan)
    }

    pub fn add(&mut self, planned: &Planned) -> Result<(), Failure> {
        self.entries += 1;
        self.line(planned)
    }

    fn line(&mut self, line: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(line).map_err(|error| self.file.failed(error))?;
        writeln!(self.file, "{text}").map_err(|error| self.file.failed(error))
    }

    pub fn commit(self) -> Result<(), Failure> {
        self.file.commit()
    }
}

/// What a dry run announced, until it's known in which state the entries are.
#[derive(Default)]
pub struct Announced(Vec<Chosen>);

/// An entry by what a removal tells of it: neither version nor token.
struct Chosen {
    key: Vec<u8>,
    namespace: String,
    reason: Reason,
    bytes: u64,
}

impl Chosen {
    fn is(&self, entry: &Entry) -> bool {
        entry.state == State::Live && entry.charged == self.bytes
    }
}

impl Announced {
    pub fn add(&mut self, removal: &Removal<'_>) {
        let dead = matches!(removal.reason, Reason::Expired | Reason::Cleared | Reason::Leftover | Reason::Corrupt);
        if let (Some(key), false) = (removal.key, dead) {
            let (key, namespace) = (key.to_vec(), removal.namespace.to_owned());
            self.0.push(Chosen { key, namespace, reason: removal.reason, bytes: removal.bytes });
        }
    }

    /// Writes them with the state that they are in. One that has gone since, or is dead by now, is left out.
    pub fn write(self, cache: &Cache, plan: &mut Plan) -> Result<(), Failure> {
        let mut others = HashMap::new();
        for chosen in self.0 {
            match cache.namespace(&chosen.namespace).info(&chosen.key)? {
                Some(entry) if chosen.is(&entry) => plan.add(&Planned::of(&entry, &field(chosen.reason)))?,
                _ => drop(others.insert((chosen.namespace.clone(), chosen.key.clone()), chosen)),
            }
        }
        if others.is_empty() {
            return Ok(());
        }
        // Of other versions than the first: a listing knows which.
        for entry in cache.entries()?.filter_map(Result::ok).filter(|entry| entry.version != 1) {
            let id = (entry.namespace.clone(), entry.key.clone());
            if let Some(chosen) = others.get(&id).filter(|chosen| chosen.is(&entry)) {
                plan.add(&Planned::of(&entry, &field(chosen.reason)))?;
            }
        }
        Ok(())
    }
}

/// Reads a plan of this cache, entry by entry.
pub fn read(file: &Path, cache: &Cache) -> Result<impl Iterator<Item = Result<Planned, Failure>>, Failure> {
    let name = file.display().to_string();
    let mut lines = BufReader::new(File::open(file).map_err(|error| Failure::failed(&name, error))?).lines();
    let head = lines.next().transpose().map_err(|error| Failure::failed(&name, error))?.unwrap_or_default();
    let head: Option<Head> = serde_json::from_str(&head).ok().filter(|head: &Head| head.schema == SCHEMA);
    let Some(head) = head else {
        return Err(Failure::usage(format!("{name}: not a plan; prune --plan FILE makes one")));
    };
    if head.dir != absolute(path_of(cache)) {
        return Err(Failure::refused(format!("{name}: a plan of another cache, {}", head.dir)));
    }
    Ok(lines.enumerate().map(move |(i, line)| {
        let line = line.map_err(|error| Failure::failed(&name, error))?;
        serde_json::from_str(&line).map_err(|error| Failure::usage(format!("{name}: line {}: {error}", i + 2)))
    }))
}

/// Removes a planned entry if it is still in its state.
pub fn remove(planned: &Planned, cache: &Cache, dry_run: bool) -> Result<bool, Failure> {
    let key = planned.key.bytes().map_err(Failure::usage)?;
    let token = planned.token.parse()?;
    let of = handle(cache, &planned.namespace, planned.version);
    if dry_run {
        return Ok(of.info(&key)?.is_some_and(|entry| entry.state == State::Live && entry.token == token));
    }
    Ok(of.delete_if(&key, token)?)
}
