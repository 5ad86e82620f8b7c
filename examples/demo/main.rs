//! `make demo`: what Larder claims, shown in one screen, each line asserted before it is printed. `DEMO=long make demo`
//! takes the long tour instead: the files of the project's own build, stored, read, expired, damaged, pruned.
//!
//! Everything happens in one temporary directory beside the build. It's removed at the end, however this ends: a second
//! process waits for the first one's death (see [`scratch`]).
#![allow(clippy::disallowed_methods, reason = "a program of its own, not the library")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]
#![allow(unreachable_pub, reason = "modules of a program")]

mod long;
mod scratch;
mod short;

use std::path::Path;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let is_long = std::env::var_os("DEMO").is_some_and(|value| value == "long");
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] if is_long => long::show(),
        [] => short::show(),
        ["janitor", dir] => scratch::janitor(Path::new(dir)),
        ["reader", cache, first] => long::reader(Path::new(cache), first.parse()?),
        ["child", role, dir, n] => short::child(role, Path::new(dir), n.parse()?),
        _ => Err("run it as `make demo`, or `DEMO=long make demo`".into()),
    }
}

fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let starts = |at: usize| at > 0 && (digits.len() - at).is_multiple_of(3);
    digits.chars().enumerate().map(|(at, c)| if starts(at) { format!(",{c}") } else { c.to_string() }).collect()
}

fn size(bytes: u64) -> String {
    match bytes {
        0..0x400 => format!("{bytes} B"),
        0x400..0x10_0000 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}
