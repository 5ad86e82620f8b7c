//! What the feature `tracing` tells, held to the table in the crate's documentation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use larder::{Prune, Ttl, Verify};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::support::process;
use crate::support::{entry_file, get, options, plain, temp_dir};

/// A span that was entered or left, or an event with its fields in the span it happened in.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    Enter(String),
    Leave(String),
    Event { name: String, fields: BTreeMap<String, String>, within: Option<String> },
}

/// Writes down whatever is told under the target `larder`.
#[derive(Clone, Default)]
struct Listener(Arc<Mutex<Notes>>);

#[derive(Default)]
struct Notes {
    told: Vec<Told>,
    /// Names of spans by their number.
    spans: Vec<String>,
    open: Vec<String>,
}

impl Listener {
    fn take(&self) -> Vec<Told> {
        std::mem::take(&mut self.0.lock().expect("notes").told)
    }

    fn named(&self, id: &Id) -> String {
        let at = usize::try_from(id.into_u64()).expect("a small number") - 1;
        self.0.lock().expect("notes").spans[at].clone()
    }
}

struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl Subscriber for Listener {
    fn enabled(&self, about: &Metadata<'_>) -> bool {
        assert!(about.target() != "larder" || *about.level() == Level::DEBUG, "{about:?}");
        about.target() == "larder"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut notes = self.0.lock().expect("notes");
        notes.spans.push(span.metadata().name().to_owned());
        Id::from_u64(notes.spans.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(BTreeMap::new());
        event.record(&mut fields);
        let mut notes = self.0.lock().expect("notes");
        let name = fields.0.remove("message").expect("an event has a message");
        let within = notes.open.last().cloned();
        notes.told.push(Told::Event { name, fields: fields.0, within });
    }

    fn enter(&self, id: &Id) {
        let name = self.named(id);
        let mut notes = self.0.lock().expect("notes");
        notes.open.push(name.clone());
        notes.told.push(Told::Enter(name));
    }

    fn exit(&self, id: &Id) {
        let name = self.named(id);
        let mut notes = self.0.lock().expect("notes");
        assert_eq!(notes.open.pop().as_ref(), Some(&name), "spans are left in the order of a stack");
        notes.told.push(Told::Leave(name));
    }
}

fn enter(name: &str) -> Told {
    Told::Enter(name.to_owned())
}

fn leave(name: &str) -> Told {
    Told::Leave(name.to_owned())
}

fn event(name: &str, within: Option<&str>, fields: &[(&str, &str)]) -> Told {
    let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Told::Event { name: name.to_owned(), fields, within: within.map(str::to_owned) }
}

/// Everything that was told, for the comparison with the documentation.
fn work(listener: &Listener) -> Vec<Told> {
    let (dir, clock, cache) = plain::fresh_with(|options| options.max_entries(2));
    let mut all = listener.take();
    assert_eq!(all, [enter("open"), leave("open")]);
    let mut expect = |what: &str, wanted: &[Told]| {
        let told = listener.take();
        assert_eq!(told, wanted, "{what}");
        all.extend(told);
    };

    cache.set("a", "1", Ttl::Never).expect("set");
    clock.step(1000);
    cache.set("b", "2", Ttl::secs(60)).expect("set");
    get(&cache, "a");
    cache.touch("b", Ttl::secs(30)).expect("touch");
    get(&cache, "nothing");
    expect("what goes well on the hot path", &[]);

    let place = |key: &str| cache.info(key).expect("info").expect("an entry").place;
    let (oldest, brief) = (place("a"), place("b"));
    cache.touch("b", Ttl::secs(60)).expect("touch");
    clock.step(100_000);
    cache.set("c", "3", Ttl::Never).expect("set");
    expect("an expired entry", &[event("evict", None, &[("place", &brief), ("expired", "true"), ("over", "Entries")])]);
    cache.set("d", "4", Ttl::Never).expect("set");
    expect("a full cache", &[event("evict", None, &[("place", &oldest), ("expired", "false"), ("over", "Entries")])]);

    cache.prune(&Prune::new().max_entries(1)).expect("prune");
    let pruned = event("prune", Some("prune"), &[("examined", "2"), ("kept", "1")]);
    expect("a prune", &[enter("prune"), pruned, leave("prune")]);
    fs::write(cache.dir().expect("a directory").join("stranger"), "").expect("a foreign file");
    cache.verify(Verify::new(), |_| {}).expect("verify");
    let verified = event("verify", Some("verify"), &[("entries", "1"), ("findings", "1")]);
    expect("a check", &[enter("verify"), verified, leave("verify")]);

    cache.clear().expect("clear");
    let generation = cache.stats().expect("stats").generation.to_string();
    let cleared = event("clear", Some("clear"), &[("generation", &generation)]);
    expect("a clear", &[enter("clear"), cleared, leave("clear")]);

    cache.set("e", "5", Ttl::Never).expect("set");
    let (file, damaged) = (entry_file(&cache, "e"), place("e"));
    let mut bytes = fs::read(&file).expect("an entry");
    *bytes.last_mut().expect("a byte") ^= 1;
    fs::write(&file, bytes).expect("a damaged entry");
    assert_eq!(get(&cache, "e"), None);
    expect("damage", &[event("removed a damaged entry", None, &[("place", &damaged)])]);

    fs::remove_dir_all(cache.dir().expect("a directory")).expect("to remove the directory");
    clock.step(2000);
    assert!(cache.get("e").is_err());
    expect("the end", &[event("the directory vanished", None, &[])]);
    assert!(options(&dir, &clock).create(false).open().is_err());
    expect("an opening in vain", &[enter("open"), leave("open")]);
    all
}

/// Names and fields of the table in src/lib.rs.
fn documented(kind: &str) -> BTreeSet<(String, BTreeSet<String>)> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("src/lib.rs");
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    let rows =
        text.lines().filter_map(|line| line.strip_prefix("//! | ")).map(|row| row.split('|').collect::<Vec<_>>());
    let rows = rows.filter(|cells| cells[0].trim() == kind);
    rows.flat_map(|cells| quoted(cells[1]).into_iter().map(move |name| (name, quoted(cells[2])))).collect()
}

/// In a process of its own: other threads, which have no listener, would switch off what they come by first.
#[test]
fn spans_and_events_are_as_documented() {
    let dir = temp_dir();
    process::child("traces::child", "teller", dir.path()).start().finish();
}

#[test]
fn child() {
    let Some(role) = process::role() else { return };
    assert_eq!(role.name(), "teller");
    let listener = Listener::default();
    let told = tracing::subscriber::with_default(listener.clone(), || work(&listener));
    let (mut spans, mut events) = (BTreeSet::new(), BTreeSet::new());
    for told in told {
        match told {
            Told::Enter(name) => spans.extend([(name, BTreeSet::new())]),
            Told::Leave(_) => {}
            Told::Event { name, fields, .. } => events.extend([(name, fields.into_keys().collect::<BTreeSet<_>>())]),
        }
    }
    assert_eq!(spans, documented("span"));
    assert_eq!(events, documented("event"));
}
