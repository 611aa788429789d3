//! Many start at once at one address: exactly one may listen.

use std::io;
use std::sync::Barrier;

use invoked_transport::{Access, Address, BindFault, Listener, Stream};

use crate::child::{Place, Start, leave_dead_socket, set_mode};

const ROUNDS: usize = 200;
const THREADS: usize = 4;

const PROCESS_ROUNDS: usize = 20;
const PROCESSES: usize = 10;

#[test]
fn of_threads_that_start_at_once_one_listens() {
    let place = Place::new();
    for round in 0..ROUNDS {
        let address = Address::unix(place.path(format!("{}/invoked.sock", round % 3))).expect("short enough");
        if round % 2 == 0 {
            // A socket that somebody left, to be fought over. The directory may be there from an earlier round.
            let directory = place.path(format!("{}", round % 3));
            std::fs::create_dir_all(&directory).expect("made");
            set_mode(&directory, 0o755);
            leave_dead_socket(address.socket_path().expect("a path"));
        }
        let barrier = Barrier::new(THREADS);
        let results: Vec<_> = std::thread::scope(|scope| {
            let start = || {
                barrier.wait();
                Listener::bind(&address, Access::Everyone)
            };
            let starters: Vec<_> = (0..THREADS).map(|_| scope.spawn(start)).collect();
            starters.into_iter().map(|starter| starter.join().expect("no panic")).collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1, "round {round}: {lost:?}");
        for error in lost.into_iter().filter_map(Result::err) {
            assert!(matches!(error.fault, BindFault::InUse { .. }), "round {round}: {error}");
        }
        Stream::connect(&address).expect("the winner answers");
    }
}

#[test]
fn of_processes_that_start_at_once_one_listens() {
    let place = Place::new();
    for round in 0..PROCESS_ROUNDS {
        // From the second round on, the socket of a daemon that was killed lies there.
        let (gate, opener) = io::pipe().expect("a pipe");
        let mut children: Vec<_> = (0..PROCESSES)
            .map(|_| {
                let stdin = gate.try_clone().expect("a copy");
                Start::new("race", &place.address()).stdin(stdin).spawn()
            })
            .collect();
        for child in &mut children {
            assert_eq!(child.next(), "waiting");
        }
        drop(opener);
        let answers: Vec<_> = children.iter_mut().map(|child| child.next()).collect();
        let winners: Vec<_> = answers.iter().enumerate().filter(|(_, answer)| *answer == "bound").collect();
        assert_eq!(winners.len(), 1, "round {round}: {answers:?}");
        let winner = winners[0].0;
        let named = format!("in use by {}", children[winner].pid());
        for (at, answer) in answers.iter().enumerate().filter(|(at, _)| *at != winner) {
            assert!(*answer == named || answer == "in use", "round {round}, {at}: {answer}, not {named}");
        }
        let stream = Stream::connect(&place.address()).expect("the winner answers");
        assert_eq!(stream.credentials().expect("credentials").pid, Some(children[winner].pid()));
        children.swap_remove(winner).kill();
    }
}
