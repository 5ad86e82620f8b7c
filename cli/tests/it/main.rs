//! `cachectl` as scripts and people use it: the real program, in directories of its own.
//!
//! | module        | what it holds to                                                             |
//! |---------------|------------------------------------------------------------------------------|
//! | `help`        | help, completion scripts, manual pages, usage errors                         |
//! | `keys`        | set, get, has, ttl, touch, rm, show: one key at a time, and their exit codes |
//! | `values`      | where values come from and go to; bytes that are no text                     |
//! | `namespaces`  | --ns and --tag                                                               |
//! | `counters`    | incr and decr                                                                |
//! | `exec`        | commands whose output is remembered                                          |
//! | `exec_shared` | of many callers at once one runs the command                                 |
//! | `listing`     | ls and stats, for eyes and for scripts                                       |
//! | `explore`     | ls with filters, du, top and hist: what fills the cache                      |
//! | `selected`    | rm and expire of what a filter finds                                         |
//! | `metrics`     | figures for Prometheus, printed, in a file and over HTTP                     |
//! | `gallery`     | docs/CACHECTL.md shows what the program prints                               |
//! | `config`      | init, config, and which directory a run is about                             |
//! | `prune`       | rules, reports, locks, signals                                               |
//! | `plans`       | prune --where and --plan, and apply                                          |
//! | `carried`     | export and import                                                            |
//! | `tended`      | doctor, schedule, config path and validate                                   |
//! | `clear`       | what it removes, and all that it refuses                                     |
//! | `indexed` | turned on and off, and what is shown of it                                   |
//! | `verify`      | findings and repairs                                                         |
//! | `harmless`    | looking writes nothing; a dry run deletes nothing                            |
//! | `why`         | whether a key would hit, and if not, what became of it                        |
//! | `urls`        | caches by URL, and copy                                                      |
//! | `measured`    | bench and watch: how fast, and what happens now                               |
//! | `schema`      | every line of --json is as its published schema says                         |
//! | `terminal`    | what differs when a person looks on                                          |

#![allow(
    clippy::disallowed_methods,
    reason = "those calls are wrong inside a live cache; tests damage some on purpose"
)]

mod carried;
mod clear;
mod config;
mod counters;
mod exec;
mod exec_shared;
mod explore;
mod gallery;
mod harmless;
mod help;
mod indexed;
mod keys;
mod listing;
mod measured;
mod metrics;
mod namespaces;
mod plans;
mod prune;
mod sandbox;
mod schema;
mod selected;
mod tended;
mod terminal;
mod urls;
mod values;
mod verify;
mod why;
