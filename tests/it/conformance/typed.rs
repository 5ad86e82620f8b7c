use std::collections::BTreeMap;

use larder::{Codec, Error, ErrorKind, Format, Ttl};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};

use super::{Bench, kind};
use crate::support::get;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct User {
    name: String,
    age: Option<u8>,
    roles: Vec<Role>,
    scores: BTreeMap<String, f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Role {
    Guest,
    Member(u32),
    Admin { of: String },
}

fn user() -> User {
    User {
        name: "Ada".to_owned(),
        age: Some(36),
        roles: vec![Role::Guest, Role::Member(7), Role::Admin { of: "all".to_owned() }],
        scores: [("x".to_owned(), 0.5), ("ключ".to_owned(), -1.0)].into(),
    }
}

pub(super) fn every_type(b: &Bench) {
    fn comes_back<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(b: &Bench, value: &T) {
        let schema = b.schema();
        let typed = b.cache.typed::<T>(schema);
        typed.set("k", value, Ttl::secs(60)).expect("set");
        assert_eq!(typed.get("k").expect("get").as_ref(), Some(value));
        #[cfg(feature = "json")]
        {
            let json = b.again().typed::<T>(schema).format::<larder::Json>();
            json.set("k", value, Ttl::secs(60)).expect("set");
            assert_eq!(json.get("k").expect("get").as_ref(), Some(value), "as JSON");
        }
    }
    comes_back(b, &user());
    comes_back(b, &vec![user(); 500]);
    comes_back(b, &());
    comes_back(b, &String::new());
    comes_back(b, &(u64::MAX, i64::MIN, true, 'ß'));
    comes_back(b, &Some(vec![None, Some("x".to_owned())]));
    comes_back(b, &BTreeMap::from([("a".to_owned(), [1u8, 2, 3])]));
    comes_back(b, &vec![7u8; 300 * 1024]);
}

pub(super) fn by_the_short_way(b: &Bench) {
    let c = &b.cache;
    assert_eq!(c.get_as::<User>("k").expect("get_as"), None);
    if !b.has_metadata() {
        c.set_as("k", &user(), Ttl::secs(10)).expect("set_as");
        assert_eq!(c.get_as::<User>("k").expect("get_as"), Some(user()));
        assert_eq!(kind(c.get_as::<String>("k").map(drop)), ErrorKind::Codec, "bytes don't tell of what type they are");
        return;
    }
    c.set_as("k", &user(), Ttl::secs(10).tag("t")).expect("set_as");
    assert_eq!(c.get_as::<User>("k").expect("get_as"), Some(user()));
    assert_eq!(c.typed::<User>(0).get("k").expect("get"), Some(user()), "which is schema 0");
    assert_eq!(c.ttl("k").expect("ttl"), Some(Ttl::secs(10)));
    let meta = c.get("k").expect("get").expect("its bytes are to be had").meta();
    assert_eq!((meta.codec, meta.schema, meta.tags), (Codec::Postcard, 0, vec!["t".to_owned()]));
    b.clock.step(10_000);
    assert_eq!(c.get_as::<User>("k").expect("get_as"), None);
}

pub(super) fn another_schema_or_format_is_a_miss(b: &Bench) {
    let c = &b.cache;
    if !b.has_metadata() {
        c.set_as("k", &7u32, Ttl::Never).expect("set_as");
        assert_eq!(c.typed::<u32>(1).get("k").expect("get"), None, "what has no schema is of no other one");
        assert_eq!(c.stats().expect("stats").misses_by.schema, 1);
        assert_eq!(c.get_as::<u32>("k").expect("get_as"), Some(7));
        return;
    }
    let (old, new) = (c.typed::<u32>(1), c.typed::<u32>(2));
    old.set("k", &7, Ttl::Never).expect("set");
    assert_eq!(new.get("k").expect("get"), None);
    assert_eq!(c.get_as::<u32>("k").expect("get_as"), None);
    assert_eq!(old.get("k").expect("get"), Some(7), "it stays for those who know it");
    let stats = c.stats().expect("stats");
    assert_eq!((stats.misses_by.schema, stats.misses, stats.hits), (2, 2, 1), "counted by their reason");
    c.set("raw", "\x07", Ttl::Never).expect("set");
    c.set("number", "7", Ttl::Never).expect("set");
    c.incr("number", 1).expect("incr");
    assert_eq!((c.get_as::<u8>("raw").expect("get_as"), c.get_as::<u8>("number").expect("get_as")), (None, None));
    assert_eq!(c.stats().expect("stats").misses_by.schema, 4, "plain bytes are no typed value");
    new.set("k", &8, Ttl::Never).expect("set");
    assert_eq!((old.get("k").expect("get"), new.get("k").expect("get")), (None, Some(8)));
    #[cfg(feature = "json")]
    {
        let json = c.typed::<u32>(2).format::<larder::Json>();
        assert_eq!(json.get("k").expect("get"), None, "another format");
        json.set("k", &9, Ttl::Never).expect("set");
        assert_eq!(get(c, "k").as_deref(), Some(b"9".as_slice()));
        assert_eq!(c.get("k").expect("get").expect("a hit").meta().codec, Codec::Json);
        assert_eq!((new.get("k").expect("get"), json.get("k").expect("get")), (None, Some(9)));
    }
}

pub(super) fn wrong_bytes_are_errors(b: &Bench) {
    let (c, schema) = (&b.cache, b.schema());
    c.typed::<(u8, u8)>(schema).set("k", &(1, 2), Ttl::Never).expect("set");
    assert_eq!(kind(c.typed::<u8>(schema).get("k")), ErrorKind::Codec, "a byte is left over");
    assert_eq!(kind(c.typed::<(u8, u8, u8)>(schema).get("k")), ErrorKind::Codec, "a byte is missing");
    assert_eq!(kind(c.typed::<(bool, bool)>(schema).get("k")), ErrorKind::Codec, "there is no such bool");
    c.typed::<Vec<u8>>(schema).set("k", &vec![0xff, 0xfe], Ttl::Never).expect("set");
    assert_eq!(kind(c.typed::<String>(schema).get("k")), ErrorKind::Codec, "not UTF-8");
    // A length that no memory could hold.
    c.typed::<u64>(schema).set("k", &u64::MAX, Ttl::Never).expect("set");
    assert_eq!(kind(c.typed::<Vec<u64>>(schema).get("k")), ErrorKind::Codec);
    assert_eq!(kind(c.typed::<String>(schema).get("k")), ErrorKind::Codec);
    assert_eq!(
        kind(c.typed::<String>(schema).get_or_set_with("k", Ttl::Never, |_| Ok::<_, Error>("x".into()))),
        ErrorKind::Codec
    );
    assert_eq!(c.typed::<u64>(schema).get("k").expect("get"), Some(u64::MAX), "the entry stays");
    assert_eq!(kind(c.typed::<String>(schema).pop("k")), ErrorKind::Codec);
    #[cfg(feature = "json")]
    {
        c.typed::<u32>(schema).format::<larder::Json>().set("k", &7, Ttl::Never).expect("set");
        assert_eq!(kind(c.typed::<String>(schema).format::<larder::Json>().get("k")), ErrorKind::Codec);
    }
}

pub(super) fn typed_calls(b: &Bench) {
    if !b.has_namespaces() || !b.has_metadata() {
        let typed = b.cache.typed::<Vec<u32>>(0);
        assert!(!typed.replace("k", &vec![1], Ttl::Never).expect("replace"));
        assert!(typed.add("k", &vec![2], Ttl::secs(100)).expect("add"));
        assert!(typed.replace("k", &vec![4, 5], Ttl::secs(100)).expect("replace"));
        assert_eq!(typed.pop("k").expect("pop"), Some(vec![4, 5]));
        return;
    }
    let typed = b.cache.namespace("a").typed::<Vec<u32>>(3);
    assert_eq!(typed.pop("k").expect("pop"), None);
    assert!(!typed.replace("k", &vec![1], Ttl::Never).expect("replace"));
    assert!(typed.add("k", &vec![2], Ttl::secs(10)).expect("add"));
    assert!(!typed.add("k", &vec![3], Ttl::secs(10)).expect("add"));
    assert!(typed.replace("k", &vec![4, 5], Ttl::secs(20)).expect("replace"));
    assert_eq!(typed.clone().get("k").expect("get"), Some(vec![4, 5]));
    assert_eq!(b.cache.typed::<Vec<u32>>(3).get("k").expect("get"), None, "a namespace is kept");
    let c = b.cache.namespace("a");
    assert!(c.touch("k", Ttl::secs(30)).expect("touch"));
    assert_eq!(typed.get("k").expect("get"), Some(vec![4, 5]), "a touch keeps the type");
    let (seen, token) = typed.get_with_token("k").expect("get_with_token").expect("a hit");
    assert!(typed.set_if("k", &[seen, vec![6]].concat(), Ttl::secs(20), token).expect("set_if"));
    assert!(!typed.set_if("k", &vec![], Ttl::secs(20), token).expect("set_if"), "it was changed since");
    assert!(typed.set_many([("l", &vec![1]), ("m", &vec![2])], Ttl::Never).expect("set_many").is_empty());
    c.typed::<u8>(9).set("o", &1, Ttl::Never).expect("set");
    let found = typed.get_many(["m", "o", "none", "l"]).expect("get_many");
    assert_eq!(found, [("m", vec![2]), ("l", vec![1])], "another schema's value is none");
    assert!(typed.contains("l").expect("contains") && typed.touch("l", Ttl::secs(5)).expect("touch"));
    assert_eq!(typed.delete_many(["l", "m", "o"]).expect("delete_many"), 3);
    assert!(!typed.delete("l").expect("delete"));
    assert_eq!(typed.pop("k").expect("pop"), Some(vec![4, 5, 6]));
    assert_eq!((typed.pop("k").expect("pop"), get(&c, "k")), (None, None));
    c.typed::<u8>(9).set("k", &1, Ttl::Never).expect("set");
    assert_eq!(typed.pop("k").expect("pop"), None, "another schema's value is none");
    assert_eq!(get(&c, "k"), None, "and is removed");
    for key in ["", &"k".repeat(larder::MAX_KEY_LEN + 1)] {
        assert_eq!(kind(typed.get(key)), ErrorKind::InvalidKey);
        assert_eq!(kind(typed.set(key, &vec![], Ttl::Never)), ErrorKind::InvalidKey);
    }
}

struct Unspeakable;

impl Serialize for Unspeakable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("no words for it"))
    }
}

pub(super) fn what_cannot_be_encoded(b: &Bench) {
    let (c, schema) = (&b.cache, b.schema());
    c.set("k", "old", Ttl::secs(10)).expect("set");
    let typed = c.typed::<Unspeakable>(schema);
    assert_eq!(kind(typed.set("k", &Unspeakable, Ttl::Never)), ErrorKind::Codec);
    assert_eq!(kind(typed.replace("k", &Unspeakable, Ttl::Never)), ErrorKind::Codec);
    assert_eq!(kind(typed.add("new", &Unspeakable, Ttl::Never)), ErrorKind::Codec);
    assert_eq!(get(c, "k").as_deref(), Some(b"old".as_slice()), "the old value stays");
    assert_eq!(get(c, "new"), None);
    #[cfg(feature = "json")]
    {
        let odd = c.typed::<BTreeMap<(u8, u8), u8>>(schema).format::<larder::Json>();
        let error = kind(odd.set("k", &[((1, 2), 3)].into(), Ttl::Never));
        assert_eq!(error, ErrorKind::Codec, "JSON has no such keys");
    }
}

pub(super) fn typed_flights(b: &Bench) {
    let c = &b.cache;
    if !b.has_metadata() {
        let (start, computed) = (std::sync::Barrier::new(3), std::sync::atomic::AtomicUsize::new(0));
        let compute = || {
            let typed = b.again().typed::<User>(0);
            start.wait();
            let made = typed.get_or_set_with("k", Ttl::secs(100), |_| {
                computed.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                Ok::<_, Error>(user())
            });
            assert_eq!(made.expect("a value"), user());
        };
        std::thread::scope(|scope| [(); 3].map(|()| scope.spawn(compute)).map(|one| one.join().expect("a thread")));
        assert_eq!(computed.into_inner(), 1, "those who wait see what it's computed to");
        return;
    }
    let (old, new) = (c.typed::<User>(1), c.typed::<String>(2));
    let made = old.get_or_set_with("k", Ttl::secs(10), |_| Ok::<_, Error>(user()));
    assert_eq!(made.expect("a value"), user());
    let found = old.get_or_set_with("k", Ttl::secs(10), |_| -> Result<User, Error> { panic!("there's a value") });
    assert_eq!(found.expect("a value"), user());
    let replaced = new.get_or_set_with("k", Ttl::secs(20), |options| {
        options.tag("t");
        Ok::<_, Error>("new".to_owned())
    });
    assert_eq!(replaced.expect("a value"), "new", "another schema's value is none");
    assert_eq!((old.get("k").expect("get"), new.get("k").expect("get").as_deref()), (None, Some("new")));
    let meta = c.get("k").expect("get").expect("a hit").meta();
    assert_eq!((meta.codec, meta.schema, meta.tags), (Codec::Postcard, 2, vec!["t".to_owned()]));
    c.invalidate_tag("t").expect("invalidate_tag");
    let failed = new.try_get_or_set_with("k", Ttl::secs(20), |_| Err(std::io::Error::other("no")));
    assert_eq!(failed.expect_err("what the callback returned").to_string(), "no");
    let chosen = new.get_or_set_with("k", Ttl::secs(20), |options| {
        options.set_options(Ttl::secs(3));
        Ok::<_, Error>("chosen".to_owned())
    });
    assert_eq!(chosen.expect("a value"), "chosen");
    assert_eq!(c.ttl("k").expect("ttl"), Some(Ttl::secs(3)));
    assert_eq!(new.get("k").expect("get").as_deref(), Some("chosen"), "new options don't lose the type");
}

/// Numbers as text, or so.
struct Words<const N: u8>;

impl<const N: u8> Format for Words<N> {
    const CODEC: Codec = Codec::Custom(N);

    fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        Ok([b"words:".as_slice(), &larder::Postcard::encode(value)?].concat())
    }

    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Box<dyn std::error::Error + Send + Sync>> {
        larder::Postcard::decode(bytes.strip_prefix(b"words:").ok_or("no words")?)
    }
}

pub(super) fn a_format_of_ones_own(b: &Bench) {
    if !b.has_metadata() {
        let ours = b.cache.typed::<u32>(0).format::<Words<16>>();
        ours.set("k", &7, Ttl::Never).expect("set");
        assert_eq!(get(&b.cache, "k").as_deref(), Some(b"words:\x07".as_slice()));
        assert_eq!(ours.get("k").expect("get"), Some(7));
        return;
    }
    let (ours, theirs) =
        (b.cache.typed::<u32>(1).format::<Words<16>>(), b.cache.typed::<u32>(1).format::<Words<255>>());
    ours.set("k", &7, Ttl::Never).expect("set");
    assert_eq!(get(&b.cache, "k").as_deref(), Some(b"words:\x07".as_slice()));
    assert_eq!(b.cache.get("k").expect("get").expect("a hit").meta().codec, Codec::Custom(16));
    assert_eq!((ours.get("k").expect("get"), theirs.get("k").expect("get")), (Some(7), None));
    theirs.set("k", &8, Ttl::Never).expect("set");
    assert_eq!((ours.get("k").expect("get"), theirs.get("k").expect("get")), (None, Some(8)));
    assert_eq!(b.cache.stats().expect("stats").misses_by.schema, 2);
}
