//! The bytes of records do not depend on one package: a second encoder, written by others, makes the same and reads
//! them back.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // a test may fail by panicking

mod mirror;
mod vector;

use mirror::second_encoding;
use vector::{FrameCase, RecordCase, each, files};

#[test]
fn a_second_encoder_makes_the_bytes_of_every_record_vector() {
    let mut count = 0;
    for path in files("records") {
        count += each(&path, "records", |case: &mut RecordCase| {
            let second = second_encoding(&case.record, &case.fields);
            assert_eq!(second.as_deref(), Ok(case.hex.0.as_ref()), "{}", case.name);
        });
    }
    assert!(count >= 28, "{count} record vectors");
}

#[test]
fn a_second_encoder_makes_the_metadata_of_every_frame_vector() {
    let mut count = 0;
    for path in files("frames").into_iter().filter(|path| !path.ends_with("prefaces.json")) {
        each(&path, "frames", |case: &mut FrameCase| {
            let Some(record) = &case.record else { return };
            let second = second_encoding(&record.record, &record.fields).unwrap();
            assert_eq!(case.hex.0[24..24 + usize::from(case.header.meta_len)], second, "{}", case.name);
            count += 1;
        });
    }
    assert!(count >= 13, "{count} frames with a record");
}
