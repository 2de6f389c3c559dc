#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_providers::fuzzing::flag(data));
