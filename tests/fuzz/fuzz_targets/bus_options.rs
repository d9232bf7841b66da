#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| styxy::fuzz::bus_options(bytes));
