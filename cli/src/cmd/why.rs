//! `why`: would it hit, and if not, why not?

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::SystemTime;

use larder::{Cache, Entry, History, Invalidated, Reason, State};
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::{Context, Ended, now};
use crate::exit_code::{Exit, Failure};
use crate::output::{Relative, escaped, json};

const EXAMPLES: &str = "\
Examples:
  cachectl -C D why greeting
  cachectl -C D why a b c                           0 if a get of each would find something
  cachectl -C D why greeting --json | jq -r .verdict";

/// Tell whether a get of a key would find something, and if not, why not.
///
/// Absent, expired and since when, evicted when and by which limit, deleted, cleared, its tag invalidated, damaged: from what is stored, and from the cache's journal of removals,
/// which all processes share and which holds the last 16,383 of them. Of what went before that nothing is known, and the answer says since when it is. Ends with 5 if a key would miss.
/// Looking is no use, and writes nothing.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Why {
    /// The keys
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<OsString>,
}

/// What is the matter with a key.
struct Answer {
    verdict: &'static str,
    /// Since when that is so.
    at: Option<SystemTime>,
    /// The setting, option or tag that decided it.
    by: Option<String>,
    text: String,
}

#[derive(JsonSchema, Serialize)]
pub struct Line {
    schema: &'static str,
    #[serde(flatten)]
    key: json::Key,
    verdict: &'static str,
    at: Option<String>,
    by: Option<String>,
    known_since: Option<String>,
}

impl Answer {
    fn new(verdict: &'static str, at: impl Into<Option<SystemTime>>, text: impl Into<String>) -> Answer {
        Answer { verdict, at: at.into(), by: None, text: text.into() }
    }

    fn by(self, what: impl Into<String>) -> Answer {
        Answer { by: Some(what.into()), ..self }
    }
}

impl Why {
    pub fn run(self, context: &Context) -> Ended {
        let Some(cache) = context.look_if_any()? else { return Ok(Exit::Absent) };
        let output = &context.output;
        let mut exit = Exit::Done;
        for key in &self.keys {
            let history = cache.history(key.as_bytes())?;
            let answer = answer(&cache, key.as_bytes(), &history)?;
            if output.json {
                output.record(&Line {
                    schema: "larder.why/1",
                    key: json::Key::of(key.as_bytes()),
                    verdict: answer.verdict,
                    at: answer.at.map(json::rfc3339),
                    by: answer.by,
                    known_since: history.since.map(json::rfc3339),
                })?;
            } else {
                let at = answer.at.map(|at| format!(" ({}, {})", Relative(at, now()), json::rfc3339(at)));
                output.line(format_args!("{}: {}{}", escaped(key.as_bytes()), answer.text, at.unwrap_or_default()))?;
            }
            if answer.verdict != "hit" {
                exit = Exit::Absent;
            }
        }
        Ok(exit)
    }
}

fn answer(cache: &Cache, key: &[u8], history: &History) -> Result<Answer, Failure> {
    let Some(entry) = cache.info(key)? else { return Ok(gone(history)) };
    Ok(match entry.state {
        // A get on a handle that only looks verifies the value and leaves no trace.
        State::Live if cache.get(key)?.is_some() => {
            Answer::new("hit", entry.meta.created, "a get finds it; it was set")
        }
        State::Live => Answer::new("corrupt", None, "its value is damaged; the next get removes it"),
        State::Expired => {
            Answer::new("expired", entry.meta.expires, "it has expired, and its bytes wait to be reclaimed")
        }
        State::Cleared => invalid(&entry, history),
        _ => Answer::new(
            "from_the_future",
            entry.meta.created,
            "by its time of creation it is yet to come; a clock is or was wrong, see `cachectl doctor`",
        ),
    })
}

/// Of an entry that is stored and no longer counts.
fn invalid(entry: &Entry, history: &History) -> Answer {
    match &history.invalidated {
        Some((at, what)) if *at >= entry.meta.created => invalidated(*at, what),
        _ => Answer::new(
            "cleared",
            None,
            "cleared, or its namespace or one of its tags was invalidated, longer ago than is known",
        ),
    }
}

fn invalidated(at: SystemTime, what: &Invalidated) -> Answer {
    match what {
        Invalidated::Namespace => {
            Answer::new("namespace_cleared", at, "its namespace was cleared, and it was not set since")
        }
        Invalidated::Tag(tag) => {
            let text = format!("its tag {} was invalidated, and it was not set since", escaped(tag.as_bytes()));
            Answer::new("tag_invalidated", at, text).by(tag)
        }
        _ => Answer::new("cleared", at, "the cache was cleared, and it was not set since"),
    }
}

/// Of a key without an entry.
fn gone(history: &History) -> Answer {
    match (&history.removed, &history.invalidated) {
        (Some((at, _)), Some((later, what))) if later > at => invalidated(*later, what),
        (Some((at, reason)), _) => removed(*at, *reason),
        (None, Some((at, what))) => invalidated(*at, what),
        (None, None) => match history.since {
            Some(since) => Answer::new(
                "unknown",
                since,
                "there is none, and none was removed since the journal begins: it was not set, or went before that",
            ),
            None => Answer::new("unknown", None, "there is none, and this cache keeps no journal of what went"),
        },
    }
}

fn removed(at: SystemTime, reason: Reason) -> Answer {
    let evicted =
        |by: &str| Answer::new("evicted", at, format!("evicted, since the cache was over its limit {by}")).by(by);
    match reason {
        Reason::Deleted => Answer::new("deleted", at, "a caller deleted it"),
        Reason::Expired => Answer::new("expired", at, "it had expired, and its bytes were reclaimed"),
        Reason::Entries => evicted("max-entries"),
        Reason::Bytes => evicted("max-size"),
        Reason::FreeSpace => Answer::new("evicted", at, "evicted, since the disk had too little left").by("min-free"),
        Reason::Corrupt => Answer::new("corrupt", at, "it was damaged, and was removed"),
        Reason::OlderThan => {
            Answer::new("pruned", at, "a prune removed what was older than it was told").by("older-than")
        }
        Reason::Idle => {
            Answer::new("pruned", at, "a prune removed what was not used for longer than it was told").by("idle")
        }
        Reason::Cleared => Answer::new(
            "cleared",
            at,
            "the cache, its namespace or one of its tags had been cleared, and its bytes were reclaimed",
        ),
        _ => Answer::new("unknown", at, "it was removed"),
    }
}
