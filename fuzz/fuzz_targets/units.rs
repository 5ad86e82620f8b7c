#![no_main]
#![allow(dead_code, reason = "cachectl uses the rest")]

/// As the crate has it.
#[path = "../../src/error.rs"]
mod error;
#[path = "../../src/units/tests/law.rs"]
mod law;
#[path = "../../src/units.rs"]
#[rustfmt::skip]
mod units;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| law::check(bytes));
