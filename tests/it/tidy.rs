//! The house rules that a compiler doesn't check: who may import whom, where `unsafe` may stand, how long things get.
//!
//! Each rule is a function from a file to its findings, `file:line: what is wrong`. Each test shows first that its rule
//! finds bad code and lets good code be, then holds the project's files to it.

use std::fs;
use std::path::Path;

/// What a module of the library is, from the bottom up.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Layer {
    /// The words that all others use.
    Words,
    /// Bytes, names and choices, computed from arguments alone.
    Pure,
    /// What calls the system; knows `error` and nothing else of ours.
    Os,
    /// The parts of the file-backed store.
    Stores,
    /// Whole stores.
    Backends,
    /// What a user of the crate sees.
    Face,
}
use Layer::{Backends, Face, Os, Pure, Stores, Words};

/// The longest name that fits a path counts, so `file` stands for whatever is below src/file and not named here.
const LAYERS: &[(&str, Layer)] = &[
    ("error", Words),
    ("key", Words),
    ("entry", Words),
    ("clock", Words),
    ("stats", Words),
    ("settings", Words),
    ("capabilities", Words),
    ("units", Words),
    ("trace", Words),
    ("metrics", Words),
    ("prune", Words),
    ("history", Words),
    ("verify", Words),
    ("format", Pure),
    ("file::indexed::index::table", Pure),
    ("policy", Pure),
    ("backend", Pure),
    ("backend::flights", Backends),
    ("backend::memory", Backends),
    ("backend::memcached", Backends),
    ("backend::net", Backends),
    ("backend::net::config", Pure),
    ("backend::net::envelope", Pure),
    ("backend::null", Backends),
    ("backend::redis", Backends),
    ("backend::tiered", Backends),
    ("sys", Os),
    ("file::directory", Stores),
    ("file::entry_files", Stores),
    ("file::new_entry", Stores),
    ("file::validity", Stores),
    ("file::room", Stores),
    ("file::indexed::index", Stores),
    ("file::indexed::segments", Stores),
    ("file", Backends),
    ("options", Face),
    ("cache", Face),
    ("async_cache", Face),
    ("async_stream", Face),
    ("async_typed", Face),
    ("single_flight", Face),
    ("stream", Face),
    ("typed", Face),
    ("versions", Face),
    ("copy", Face),
    ("lib", Face),
];

fn may_import(from: Layer, module: &str, to: Layer) -> bool {
    match from {
        Words => to == Words,
        Pure => matches!(to, Words | Pure),
        Os => to == Os || module == "error",
        Stores => matches!(to, Words | Pure | Os | Stores),
        Backends => to != Face,
        Face => !matches!(to, Os | Stores),
    }
}

/// Words that show a layer doing another one's work.
const FOREIGN: &[(&[Layer], &[&str], &str)] = &[
    (&[Words, Pure], &["std::fs"], "files belong to sys"),
    (&[Pure], &["SystemTime", "Instant"], "pure code gets the time as an argument"),
    (
        &[Words, Pure, Stores, Backends, Face],
        &["rustix::", "libc::", "fs2::", "memmap2::"],
        "system calls belong to sys",
    ),
    (&[Words, Pure, Os, Stores, Backends, Face], &["println!", "eprintln!", "print!"], "the library never prints"),
];

/// The entry of `LAYERS` for a path such as `file::entry_files::read::Found`.
fn layer(mut path: &str) -> Option<(&'static str, Layer)> {
    loop {
        if let Some(&found) = LAYERS.iter().find(|(name, _)| *name == path) {
            return Some(found);
        }
        path = path.rsplit_once("::")?.0;
    }
}

/// Holds a file's `crate::…` and `super::…` to the layers. `reexports` are the paths that src/lib.rs makes public.
fn layers(source: &Source, reexports: &[String]) -> Vec<String> {
    let Some(here) = source.file.strip_prefix("src/") else { return Vec::new() };
    let here = here.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
    let Some((_, from)) = layer(&here) else {
        return vec![source.finding(0, "a module without a layer; add it to LAYERS in tests/it/tidy.rs")];
    };
    let mut found = Vec::new();
    for (at, path) in imports(source.code(), &here) {
        let path = reexports.iter().find(|full| full.ends_with(&format!("::{path}"))).unwrap_or(&path);
        let what = match layer(path) {
            Some((module, to)) if may_import(from, module, to) => continue,
            Some((module, to)) => format!("{from:?} may not import {to:?} (`{module}`)"),
            None => format!("`{path}`: neither in LAYERS nor a re-export of src/lib.rs"),
        };
        found.push(source.finding(at, &what));
    }
    // `libc::ENOENT` and the like are words, not calls.
    let errno = |at: usize| source.code()[at..].starts_with("libc::E");
    for (_, words, rule) in FOREIGN.iter().filter(|(layers, ..)| layers.contains(&from)) {
        let bad = words.iter().flat_map(|word| find(source.code(), word)).filter(|&at| !errno(at));
        found.extend(bad.map(|at| source.finding(at, rule)));
    }
    found
}

/// The paths from the crate's root, and where they stand. `super` is taken to stand at the file's own level.
fn imports(code: &str, here: &str) -> Vec<(usize, String)> {
    let roots = find(code, "crate::").into_iter().chain(find(code, "super::"));
    let starts = roots.filter(|&at| !code[..at].ends_with("::") && !code[..at].ends_with("in "));
    let full = |at: usize| {
        let (mut base, mut tail) = (here, code[at..].trim_start_matches("crate::"));
        while let Some(rest) = tail.strip_prefix("super::") {
            (base, tail) = (base.rsplit_once("::").map_or("", |(parent, _)| parent), rest);
        }
        expand(if code[at..].starts_with("crate") { "" } else { base }, tail)
    };
    starts.flat_map(|at| full(at).into_iter().map(move |path| (at, path))).collect()
}

/// `a::{b, c::{self, D}}` becomes `a::b`, `a::c::self`, `a::c::D`.
fn expand(base: &str, tail: &str) -> Vec<String> {
    let mut path = if base.is_empty() { String::new() } else { format!("{base}::") };
    let (mut open, mut paths) = (Vec::new(), Vec::new());
    for c in tail.chars() {
        match c {
            '{' => open.push(path.clone()),
            ',' | '}' if !open.is_empty() => {
                paths.push(std::mem::take(&mut path));
                if c == '}' {
                    open.pop();
                }
                path.push_str(if c == ',' { open.last().map_or("", String::as_str) } else { "" });
            }
            c if c == ':' || c == '*' || is_word(c) => path.push(c),
            c if c.is_whitespace() && !open.is_empty() => {}
            _ => break,
        }
    }
    paths.push(path);
    paths.retain(|path| !path.is_empty() && !path.ends_with(':'));
    paths
}

fn unsafe_code(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().map(str::trim).collect();
    // Upwards over the rest of the statement to the comment above it.
    let reasoned = |at: usize| {
        let above = lines[..source.line(at) - 1].iter().rev();
        let mut above = above.skip_while(|l| !l.starts_with("//") && !l.ends_with([';', '{', '}']) && !l.is_empty());
        above.by_ref().take_while(|l| l.starts_with("//")).any(|l| l.starts_with("// SAFETY: "))
    };
    let inside = source.file.starts_with("src/sys/");
    if source.file.starts_with("benches/peers/") {
        // Not ours to ship: there some of the peers' own calls are unsafe.
        return Vec::new();
    }
    let bad = find(&source.code, "unsafe").into_iter().filter(|&at| !inside || !reasoned(at));
    let what = if inside { "`unsafe` without a `// SAFETY: ` comment above it" } else { "`unsafe` outside src/sys" };
    bad.map(|at| source.finding(at, what)).collect()
}

fn length(source: &Source) -> Vec<String> {
    let total = source.code().lines().count();
    let mut found = Vec::new();
    if total > 700 {
        found.push(source.finding(0, &format!("{total} lines before the tests; the limit is 700")));
    }
    for at in find(&source.code, "fn ") {
        let tail = &source.code[at..];
        let body = tail.find('{').filter(|body| !tail[..*body].contains(";\n"));
        let lines = body.map_or(0, |body| tail[..body + group(&tail[body..], '{', '}')].lines().count());
        // A test's table of rows may be longer than code that somebody has to keep in mind.
        let most = if source.file.contains("tests") { 100 } else { 70 };
        if lines > most {
            found.push(source.finding(at, &format!("a function of {lines} lines; the limit is {most}")));
        }
    }
    found
}

/// The two layouts of a directory know nothing of each other, and only an opening and a conversion know both.
fn engines_apart(source: &Source) -> Vec<String> {
    let Some(place) = source.file.strip_prefix("src/file/") else { return Vec::new() };
    let foreign: &[&str] = match place.split('/').next() {
        Some("open.rs" | "convert.rs") => &[],
        Some("tree") => &["indexed", "IndexedEngine"],
        Some("indexed") => &["tree", "TreeEngine"],
        _ => &["IndexedEngine", "TreeEngine"],
    };
    let bad = foreign.iter().flat_map(|word| find(source.code(), word));
    bad.map(|at| source.finding(at, "an engine is named where none should be: the verbs of file::engine are")).collect()
}

/// `matches!(…);` as a statement looks like an assertion and is none.
fn dropped_matches(source: &Source) -> Vec<String> {
    let dropped = |at: &usize| {
        let (head, tail) = source.code.split_at(*at);
        let head = head.trim_end();
        (head.is_empty() || head.ends_with([';', '{', '}']))
            && tail[group(tail, '(', ')')..].trim_start().starts_with(';')
    };
    let bad = find(&source.code, "matches!").into_iter().filter(dropped);
    bad.map(|at| source.finding(at, "the result of `matches!` is dropped")).collect()
}

/// What is put off says why: `TODO(reason or issue): what`, `todo!("reason")`, `#[ignore = "reason"]`.
fn put_off(source: &Source) -> Vec<String> {
    let words = [("TODO", "("), ("FIXME", "("), ("XXX", "("), ("todo!(", "\""), ("#[ignore", " = \"")];
    let bad = words.iter().flat_map(|(word, reason)| {
        let hay = if *reason == "(" { &source.comments } else { &source.code };
        find(hay, word).into_iter().filter(move |at| !source.text[at + word.len()..].starts_with(reason))
    });
    bad.map(|at| source.finding(at, "put off without a reason")).collect()
}

fn vague_name(source: &Source) -> Vec<String> {
    let vague = ["util", "utils", "common", "misc", "helper", "helpers"];
    let bad = source.file.split(['/', '.']).any(|part| vague.contains(&part))
        || vague.iter().any(|name| !find(&source.code, &format!("mod {name}")).is_empty());
    bad.then(|| source.finding(0, "a name that says nothing; name it after what it does")).into_iter().collect()
}

fn machine_path(source: &Source) -> Vec<String> {
    let homes = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/Us", "ers/")];
    let inside = |at: usize| source.text[..at].ends_with(|c: char| is_word(c) || "./~-}>*".contains(c));
    let bad = homes.iter().flat_map(|home| source.text.match_indices(home)).filter(|(at, _)| !inside(*at));
    bad.map(|(at, _)| source.finding(at, "an absolute path of one machine")).collect()
}

/// A file's path from the project's root, its text, and two copies of the text with the same offsets: one with comments
/// and literals blanked out, one with all but the comments blanked out (both empty where it isn't Rust).
struct Source {
    file: String,
    text: String,
    code: String,
    comments: String,
}

impl Source {
    fn new(file: &str, text: &str) -> Source {
        let (mut code, mut comments) = (String::new(), String::new());
        let mut rest = if file.ends_with(".rs") { text } else { "" };
        while !rest.is_empty() {
            let (kind, len) = token(rest);
            let (piece, tail) = rest.split_at(len);
            let blank: String = piece.bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }).collect();
            code.push_str(if kind == Kind::Code { piece } else { &blank });
            comments.push_str(if kind == Kind::Comment { piece } else { &blank });
            rest = tail;
        }
        Source { file: file.to_owned(), text: text.to_owned(), code, comments }
    }

    /// The code before the unit tests.
    fn code(&self) -> &str {
        let end = if self.file.ends_with("/tests.rs") { Some(0) } else { self.code.find("\nmod tests") };
        &self.code[..end.unwrap_or(self.code.len())]
    }

    fn line(&self, at: usize) -> usize {
        self.text[..at].matches('\n').count() + 1
    }

    fn finding(&self, at: usize, what: &str) -> String {
        format!("{}:{}: {what}", self.file, self.line(at))
    }
}

#[derive(PartialEq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// The kind and length of what `rest` begins with. Code comes one character at a time.
fn token(rest: &str) -> (Kind, usize) {
    let until = |end: &str, from: usize| rest[from..].find(end).map_or(rest.len(), |i| from + i + end.len());
    let quoted = |quote: char| {
        let mut escaped = true; // the opening quote
        let ends = |c| {
            let ends = c == quote && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        };
        rest.find(ends).map_or(rest.len(), |i| i + 1)
    };
    let hashes = rest.bytes().skip(1).take_while(|&b| b == b'#').count();
    let mut next = rest.chars();
    match (next.next(), next.next(), next.next()) {
        (Some('/'), Some('/'), _) => (Kind::Comment, until("\n", 0)),
        (Some('/'), Some('*'), _) => (Kind::Comment, until("*/", 2)),
        (Some('r'), Some('"' | '#'), _) if rest[1 + hashes..].starts_with('"') => {
            (Kind::Literal, until(&format!("\"{}", "#".repeat(hashes)), hashes + 2))
        }
        (Some('"'), ..) => (Kind::Literal, quoted('"')),
        // Else a lifetime or a label.
        (Some('\''), Some('\\'), _) | (Some('\''), _, Some('\'')) => (Kind::Literal, quoted('\'')),
        (c, ..) => (Kind::Code, c.map_or(0, char::len_utf8)),
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where `word` stands in `text` by itself, not as a part of a longer word.
fn find(text: &str, word: &str) -> Vec<usize> {
    let joins = |a: &str, b: &str| a.ends_with(is_word) && b.starts_with(is_word);
    let whole = |&at: &usize| !joins(&text[..at], word) && !joins(word, &text[at + word.len()..]);
    text.match_indices(word).map(|(at, _)| at).filter(whole).collect()
}

/// The end of the first group in brackets.
fn group(code: &str, open: char, close: char) -> usize {
    let mut depth = 0;
    let closes = |c| {
        depth += i32::from(c == open) - i32::from(c == close);
        c == close && depth == 0
    };
    code.find(closes).map_or(code.len(), |end| end + 1)
}

/// The project's text files, without build output and hidden folders.
fn files() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut found, mut dirs) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("a folder of the project").map(|e| e.expect("its entry")) {
            let (path, name, kind) = (entry.path(), entry.file_name(), entry.file_type().expect("its type"));
            let name = name.to_string_lossy();
            if kind.is_dir() && name != "target" && (!name.starts_with('.') || name == ".ci") {
                dirs.push(path);
            } else if kind.is_file()
                // In a worktree it's a file that leads to the repository.
                && name != ".git"
                && let Ok(text) = fs::read_to_string(&path)
            {
                found.push(Source::new(&path.strip_prefix(root).expect("below the root").to_string_lossy(), &text));
            }
        }
    }
    found
}

/// Shows that `rule` finds each bad snippet and no good one, then holds the project's files to it.
fn hold(rule: impl Fn(&Source) -> Vec<String>, bad: &[(&str, &str)], good: &[(&str, &str)]) {
    let found = |(file, text): &(&str, &str)| rule(&Source::new(file, text));
    for snippet in bad {
        assert_ne!(found(snippet), [""; 0], "should be found: {snippet:?}");
    }
    for snippet in good {
        assert_eq!(found(snippet), [""; 0], "should not be found: {snippet:?}");
    }
    let files = files();
    assert!(files.iter().any(|source| source.file == "src/lib.rs"), "the sources are missing");
    let found: Vec<_> = files.iter().flat_map(rule).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn engines_are_apart() {
    let bad = [
        ("src/file/operations.rs", "fn f(_: &IndexedEngine) {}"),
        ("src/file/tree/mod.rs", "use crate::file::indexed::Maps;"),
        ("src/file/indexed/mod.rs", "use crate::file::tree::TreeEngine;"),
    ];
    let good = [
        ("src/file/open.rs", "use crate::file::{indexed::IndexedEngine, tree::TreeEngine};"),
        ("src/file/operations.rs", "impl<E: Engine> FileStore<E> {}"),
        ("src/cache.rs", "fn tree() {}"),
    ];
    hold(engines_apart, &bad, &good);
}

#[test]
fn imports_follow_the_layers() {
    let lib = files().into_iter().find(|source| source.file == "src/lib.rs").expect("src/lib.rs").code;
    let public = |at| expand("", &lib[at + "pub use ".len()..]);
    let reexports: Vec<String> = find(&lib, "pub use ").into_iter().flat_map(public).collect();
    let rule = |source: &Source| layers(source, &reexports);
    let bad = [
        ("src/key.rs", "use crate::sys::fs::Stat;"),
        ("src/sys/fs.rs", "use crate::key::Id;"),
        ("src/policy/mod.rs", "use crate::{error::Result, file::entry_files::{walk::{self}, read}};"),
        ("src/policy/mod.rs", "fn f() -> std::time::Instant"),
        ("src/format/header.rs", "use crate::file::entry_files::read;"),
        ("src/file/indexed/index/table.rs", "use crate::sys::mmap::Memory;"),
        ("src/file/indexed/segments/mod.rs", "use crate::file::indexed::IndexedEngine;"),
        ("src/file/entry_files/read.rs", "use super::super::FileStore;"),
        ("src/file/prune.rs", "fn f(_: crate::cache::Cache) {}"),
        ("src/file/prune.rs", "fn f() { println!(); }"),
        ("src/file/prune.rs", "use rustix::fs::unlinkat;"),
        ("src/cache.rs", "use crate::file::entry_files::read;"),
        ("src/key.rs", "use crate::nowhere::X;"),
        ("src/nowhere.rs", ""),
    ];
    let good = [
        ("src/file/mod.rs", "use crate::{entry::{Meta, Ttl}, sys};\nmod index;\nuse super::policy;"),
        ("src/file/entry_files/read.rs", "pub(in crate::file) fn f() {}\nuse super::walk; // crate::cache"),
        ("src/cache.rs", "use crate::verify::Finding;\nfn f(e: i32) { e == libc::EIO }"),
        ("src/key.rs", "#[cfg(test)]\nmod tests {\n use crate::cache::Cache; }"),
        ("cli/src/main.rs", "use crate::args;"),
    ];
    hold(rule, &bad, &good);
}

#[test]
fn unsafe_stays_in_sys_and_says_why() {
    let bad = [("src/key.rs", "fn f() { unsafe { g() } }"), ("src/sys/fs.rs", "// a comment\nunsafe { g() }")];
    let good = [
        ("src/key.rs", "// unsafe"),
        ("src/key.rs", "f(\"unsafe\", 'a', r#\"\" unsafe \"#); /* unsafe */ deny_unsafe::<'a>();"),
        ("src/sys/fs.rs", "// SAFETY: sound,\n// as shown.\nlet x =\n    g(unsafe { h() });"),
    ];
    hold(unsafe_code, &bad, &good);
}

#[test]
fn functions_and_files_are_short() {
    let function = |lines: usize| format!("fn f(x: [u8; 2]) {{\n{}}}\n", "    g();\n".repeat(lines - 2));
    let (long, short, many) = (function(71), function(70), "\n".repeat(701));
    let trait_fn = format!("fn g() -> u8;\n{short}");
    let tests = format!("#[cfg(test)]\nmod tests {{{many}}}");
    let good = [("src/a.rs", &*short), ("src/a.rs", &*trait_fn), ("src/a.rs", &*tests), ("a/tests.rs", &*many)];
    hold(length, &[("src/a.rs", &*long), ("src/a.rs", &*many)], &good);
}

#[test]
fn no_result_of_matches_is_dropped() {
    let good = [
        ("a.rs", "let x =\n matches!(a, B);"),
        ("a.rs", "assert!(matches!(a, B));"),
        ("a.rs", "{ matches!(a, B(_)) }"),
    ];
    hold(dropped_matches, &[("a.rs", "f();\n    matches!(a, B(_));")], &good);
}

#[test]
fn nothing_is_put_off_without_a_reason() {
    let bad =
        [("a.rs", "// TODO: later"), ("a.rs", "/* FIXME */"), ("a.rs", "todo!()"), ("a.rs", "#[ignore]\nfn f() {}")];
    let good = [("a.rs", "// TODO(needs Linux 6.12): use it\nf(\"TODO\")"), ("a.rs", "#[ignore = \"an hour\"]")];
    hold(put_off, &bad, &good);
}

#[test]
fn names_say_something() {
    let bad = [("src/utils.rs", ""), ("src/common/mod.rs", ""), ("src/a.rs", "mod helpers {}")];
    hold(vague_name, &bad, &[("src/file/common_prefix.rs", "mod utilities;")]);
}

#[test]
fn no_path_of_one_machine() {
    let bad = concat!("see `/ho", "me/ann/x`");
    hold(machine_path, &[("README.md", bad)], &[("README.md", concat!("at $ROOT/ho", "me/x and a/ro", "ot/b"))]);
}
