//! Records of any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| invoked_proto::fuzzing::records(data));
