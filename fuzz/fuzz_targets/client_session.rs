//! A client against any daemon.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| invoked_proto::fuzzing::client_session(data));
