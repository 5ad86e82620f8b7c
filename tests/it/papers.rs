//! What the papers say is there is there: links, lengths, examples. README's code runs as doc tests of src/lib.rs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use larder::{Cache, Layout};

use crate::support::temp_dir;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn papers() -> Vec<PathBuf> {
    let below =
        |dir: &str| fs::read_dir(root().join(dir)).expect("a folder").map(|entry| entry.expect("a file").path());
    let all = below(".").chain(below("docs")).chain(below("examples"));
    all.filter(|path| path.extension().is_some_and(|ext| ext == "md")).collect()
}

/// Targets of `[text](target)` that aren't addresses on the net.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    targets.filter(|target| !target.contains("://") && !target.starts_with('#') && !target.contains(' '))
}

#[test]
fn links_lead_to_files() {
    let mut seen = 0;
    for paper in papers() {
        let text = fs::read_to_string(&paper).expect("a paper");
        for link in links(&text) {
            let file = link.split('#').next().unwrap_or(link);
            assert!(paper.with_file_name(file).exists(), "{} links to {link}, which isn't there", paper.display());
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen} links were found");
}

#[test]
fn papers_keep_to_their_lengths() {
    for (paper, most) in [
        ("README.md", 150),
        ("ARCHITECTURE.md", 240),
        ("CONTRIBUTING.md", 90),
        ("docs/FORMAT.md", 400),
        ("docs/SEGMENTS.md", 350),
        ("docs/RELIABILITY.md", 200),
    ] {
        let lines = fs::read_to_string(root().join(paper)).expect("a paper").lines().count();
        assert!(lines <= most, "{paper} has {lines} lines; {most} is the most");
    }
}

/// Whether `conformance::store::name` is a check that runs on this store.
fn is_check(path: &str) -> bool {
    let mut parts = path.split("::");
    let (Some("conformance"), Some(store), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let text = fs::read_to_string(root().join("tests/it/conformance.rs")).expect("the suite");
    let (_, checks) = text.split_once("suite!(@checks").expect("the checks");
    let (checks, _) = checks.split_once(");").expect("their end");
    checks.split_whitespace().any(|check| check == name) && text.contains(&format!("\n    {store}: super::"))
}

/// Whether `module::name` is a test of tests/it.
fn is_test(path: &str) -> bool {
    let Some((module, name)) = path.rsplit_once("::") else { return false };
    if is_check(path) {
        return true;
    }
    let read =
        |module: &str| fs::read_to_string(root().join("tests/it").join(module.replace("::", "/")).with_extension("rs"));
    match (read(module), module.rsplit_once("::")) {
        (Ok(text), _) => text.contains(&format!("#[test]\nfn {name}() {{")),
        // In a module within a file.
        (Err(_), Some((file, inner))) => read(file).is_ok_and(|text| {
            text.split_once(&format!("mod {inner} {{\n"))
                .is_some_and(|(_, text)| text.contains(&format!("    #[test]\n    fn {name}() {{")))
        }),
        (Err(_), None) => false,
    }
}

/// Each promise names the tests that show it, and these are there.
#[test]
fn promises_name_tests_that_exist() {
    assert!(is_test("papers::links_lead_to_files"));
    assert!(is_test("conformance::indexed::set_and_get") && !is_test("conformance::indexed::nothing"));
    assert!(!is_test("papers::is_test") && !is_test("papers::nothing") && !is_test("nowhere::links_lead_to_files"));
    let text = fs::read_to_string(root().join("docs/RELIABILITY.md")).expect("docs/RELIABILITY.md");
    let named = |line: &str| {
        let spans =
            line.split('`').skip(1).step_by(2).filter(|span| span.contains("::") && !span.starts_with("module::"));
        spans.filter(|span| span.starts_with(char::is_lowercase)).map(str::to_owned).collect::<Vec<_>>()
    };
    let missing: Vec<_> = text.lines().flat_map(named).filter(|path| !is_test(path)).collect();
    assert_eq!(missing, [""; 0], "docs/RELIABILITY.md names tests that aren't there");
    let mut rows = 0;
    for table in ["| hazard |", "| proof |", "| fault |"] {
        let (_, rest) = text.split_once(table).expect("a table");
        for row in rest.lines().skip(2).take_while(|line| line.starts_with('|')) {
            assert!(!named(row).is_empty(), "a promise without a test: {row}");
            rows += 1;
        }
    }
    assert!(rows > 30, "{rows} promises");
}

/// A campaign that had another name would be left out of the soak, and nobody would notice.
#[test]
fn the_soak_names_campaigns_that_exist() {
    // Not part of the published crate.
    let Ok(text) = fs::read_to_string(root().join(".ci/soak")) else { return };
    let (_, list) = text.split_once("campaigns=(").expect("a list");
    let names: Vec<_> = list.lines().skip(1).take_while(|line| *line != ")").map(str::trim).collect();
    assert!(names.len() > 15, "{} campaigns", names.len());
    let missing: Vec<_> = names.into_iter().filter(|name| !is_test(name)).collect();
    assert_eq!(missing, [""; 0], ".ci/soak names tests that aren't there");
}

/// The program of an example, beside this test's own folder. A plain `cargo test` has built it already; `cargo test
/// --test it` builds none, so it may be missing or older than its source.
fn built(source: &Path) -> PathBuf {
    let test = std::env::current_exe().expect("this test");
    let profile = test.ancestors().nth(2).expect("the folder of the profile");
    let program = profile.join("examples").join(source.file_stem().expect("a name"));
    let age = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    if age(&program) < age(source) {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--examples", "--manifest-path"]).arg(root().join("Cargo.toml"));
        build.arg("--target-dir").arg(profile.parent().expect("the target folder"));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        let output = build.output().expect("cargo");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    program
}

/// Each example is in the index, and runs to success: what it shows it also asserts. The demo, a directory, needs a
/// release build; `make demo` runs it.
#[test]
fn examples_are_indexed_and_run() {
    let index = fs::read_to_string(root().join("examples/README.md")).expect("the index");
    let mut ran = 0;
    for entry in fs::read_dir(root().join("examples")).expect("the examples") {
        let path = entry.expect("an example").path();
        let Some(name) = path.file_stem().filter(|_| path.extension().is_some_and(|ext| ext == "rs")) else { continue };
        let name = name.to_string_lossy();
        assert!(index.contains(&format!("({name}.rs)")), "examples/README.md lacks {name}");
        let lines = fs::read_to_string(&path).expect("an example").lines().count();
        assert!(lines <= 60, "{name} has {lines} lines; an example fits on a screen");
        let output = Command::new(built(&path)).output().expect("an example that was built");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        ran += 1;
    }
    assert!(ran >= 4);
}

/// README shows the quickstart, line for line, so that what is read there is what runs.
#[test]
fn readme_shows_the_quickstart() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let quickstart = fs::read_to_string(root().join("examples/quickstart.rs")).expect("the example");
    let shown = readme.split_once("```rust\n").and_then(|(_, rest)| rest.split_once("```")).expect("an example").0;
    let mut rest = quickstart.lines();
    for line in shown.lines() {
        assert!(
            rest.any(|real| real == line),
            "README shows {line:?}, which examples/quickstart.rs lacks at that place"
        );
    }
}

/// The table of names in docs/FORMAT.md is what a new cache consists of, modes included.
#[test]
fn a_new_directory_is_as_the_format_says() {
    let text = fs::read_to_string(root().join("docs/FORMAT.md")).expect("docs/FORMAT.md");
    let table = text.split_once("| name | constant | kind | mode |").expect("the table of names").1;
    let mut documented: Vec<(String, bool, u32)> = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let mode = u32::from_str_radix(cells[4], 8).expect("an octal mode");
            (cells[1].trim_matches('`').to_owned(), cells[3] == "directory", mode)
        })
        .collect();
    documented.sort();
    for layout in [Layout::Files, Layout::Indexed] {
        let dir = temp_dir();
        let cache = Cache::file(dir.path().join("cache")).layout(layout).open().expect("a cache");
        let mut found: Vec<(String, bool, u32)> = fs::read_dir(cache.dir().expect("a directory"))
            .expect("its directory")
            .map(|entry| {
                let entry = entry.expect("an entry");
                let meta = entry.metadata().expect("its metadata");
                (entry.file_name().to_string_lossy().into_owned(), meta.is_dir(), meta.mode() & 0o7777)
            })
            .collect();
        found.sort();
        let mapped = |name: &str| ["index", "live", "arena"].contains(&name);
        let mut wanted = documented.clone();
        wanted.retain(|(name, ..)| layout != Layout::Files || !mapped(name));
        assert_eq!(found, wanted, "{layout:?}");
    }
}
