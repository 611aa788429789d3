//! A call is cancelled while its handler looks, waits, or is about to.

use shuttle::future::block_on;
use shuttle::thread;

use super::cancellation::CancellationToken;
use crate::explore;

#[test]
fn whoever_waits_for_a_cancel_is_told_whenever_it_comes() {
    explore(|| {
        let token = CancellationToken::default();
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let token = token.clone();
                thread::spawn(move || {
                    block_on(token.cancelled());
                    assert!(token.is_cancelled());
                })
            })
            .collect();
        token.cancel();
        waiting.into_iter().for_each(|thread| thread.join().unwrap());
        block_on(token.cancelled());
    });
}
