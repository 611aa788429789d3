//! A daemon against any client.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| invoked_proto::fuzzing::daemon_session(data));
