#![no_main]

#[path = "../../tests/it/fuzz/entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    entry::check(bytes);
});
