//! Peers that die at any moment.

use std::time::Duration;

use invoked_client::blocking::Client;
use invoked_client::{Address, Call};

use crate::child::{Other, options, say};
use crate::harness::Start;
use crate::watch::{Innocents, Watch};

/// Calls everything at once, until it is killed.
pub(crate) fn mixed_workload(address: &Address) {
    let client = Client::connect(options(address)).unwrap();
    let call = |command: &str| -> Call<'_, Client> { client.call(command) };
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let call = &call;
            scope.spawn(move || {
                loop {
                    let outcome = match thread {
                        0 => call("core.ping").send(),
                        1 => call("bench.echo").raw(vec![1; 3_000_000]).send(),
                        2 => call("bench.bytes").arg("len", 20_000_000).send(),
                        _ => call("fs.read_file")
                            .arg("path", "/proc/self/status")
                            .timeout(Duration::from_millis(1))
                            .send(),
                    };
                    drop(outcome);
                }
            });
        }
        say("calling");
    });
}

#[test]
fn a_peer_killed_at_200_moments_leaves_nothing() {
    const KILLS: usize = 200;
    const AT_ONCE: usize = 4;
    let mut daemon = Start::dev().run();
    let mut innocents = Innocents::connect(8, &daemon.place().options());
    let watch = Watch::start(&daemon);
    innocents.start();
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    for round in 0..KILLS / AT_ONCE {
        let mut victims: Vec<_> = (0..AT_ONCE).map(|_| Other::start("mixed", daemon.place())).collect();
        for victim in &mut victims {
            victim.answer();
        }
        for victim in victims {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            std::thread::sleep(Duration::from_micros(state % 20_000));
            victim.kill();
        }
        if round % 10 == 9 {
            watch.check(&mut daemon, &format!("{} kills", (round + 1) * AT_ONCE));
        }
    }
    assert_eq!(innocents.finish(), 0, "errors of innocent callers");
    watch.finish(&mut daemon, "kills");
}
