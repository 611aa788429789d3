//! Threads of the pool bring large results to a loop that takes them one after the other.

use shuttle::thread;

use super::backlog::{BYTES_MAX, Backlog};
use crate::explore;
use crate::sync::Arc;

#[test]
fn results_wait_for_room_and_each_finds_it() {
    explore(|| {
        let backlog = Arc::new(Backlog::default());
        assert!(backlog.enter(100).is_none(), "a small one is not counted");
        let whole = backlog.enter(BYTES_MAX + 1).expect("alone, it may be larger");
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let backlog = Arc::clone(&backlog);
                thread::spawn(move || {
                    let place = backlog.enter(BYTES_MAX / 2).expect("nobody has closed it");
                    assert!(backlog.bytes() <= BYTES_MAX, "two at once, and no more");
                    drop(place);
                })
            })
            .collect();
        drop(whole);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(backlog.bytes(), 0);
    });
}

#[test]
fn nobody_waits_once_nobody_takes_results_any_more() {
    explore(|| {
        let backlog = Arc::new(Backlog::default());
        let whole = backlog.enter(BYTES_MAX);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let backlog = Arc::clone(&backlog);
                thread::spawn(move || assert!(backlog.enter(BYTES_MAX).is_none()))
            })
            .collect();
        backlog.close();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        drop(whole);
    });
}
