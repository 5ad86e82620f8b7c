#![no_main]

#[path = "../../tests/it/fuzz/marker.rs"]
mod marker;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    marker::check(bytes);
});
