//! The fuzzers' functions over the committed corpus: small inputs made of the vectors and of what fuzzing found.

use std::path::Path;

use invoked_proto::fuzzing::{client_session, daemon_session, decoder, records};

fn replay(directory: &str, function: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz-corpus").join(directory);
    let mut count = 0;
    for entry in std::fs::read_dir(&directory).expect("the corpus is there") {
        let path = entry.expect("a readable entry").path();
        let data = std::fs::read(&path).expect("a readable file");
        assert!(data.len() <= 16 << 10, "{} is too large for the corpus", path.display());
        if let Err(panic) = std::panic::catch_unwind(|| function(&data)) {
            eprintln!("with {}", path.display());
            std::panic::resume_unwind(panic);
        }
        // Every beginning, and each byte changed in turn, is an input too.
        for at in (0..data.len()).step_by(1 + data.len() / 64) {
            function(&data[..at]);
            let mut changed = data.clone();
            changed[at] ^= 0x81;
            function(&changed);
        }
        count += 1;
    }
    assert!(count >= 15, "{count} inputs in {}", directory.display());
}

#[test]
fn the_decoder_holds_over_its_corpus() {
    replay("decoder", decoder);
}

#[test]
fn records_hold_over_their_corpus() {
    replay("records", records);
}

#[test]
fn a_daemon_holds_over_its_corpus() {
    replay("daemon_session", daemon_session);
}

#[test]
fn a_client_holds_over_its_corpus() {
    replay("client_session", client_session);
}
