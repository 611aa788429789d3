//! Files and directories that change while a real daemon looks for them, reads them or writes them: what was judged is
//! what is used, however often another thread swaps it for a way out.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use invoked_client::{Error, ErrorCode};
use invoked_proto::registry::limits;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::files::{granting, kind, write};
use crate::harness::HANG;
use crate::hostile_files::{BELOW, call, descriptors_are_back, outside, tree};

/// How long what races may take to meet, on a machine that has a lot else to do.
const PATIENCE: Duration = Duration::from_secs(HANG.as_secs() * 5);

/// Ends the other thread, also when an assertion fails.
struct AtEnd<'a>(&'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a race must come to.
#[derive(Clone, Copy)]
struct Least {
    swaps: usize,
    attacks: usize,
}

/// How often something is swapped under the eyes of the daemon, and how often that is asked meanwhile. Its windows are
/// short: three faults that were put in to try this (no O_EXCL, no check of the directory that was found, a path in place
/// of its handle) were missed with a hundred or so, and found with this.
const MANY: Least = Least { swaps: 10_000, attacks: 3_000 };

/// Where each turn waits for the disk.
const FEW: Least = Least { swaps: 1_000, attacks: 300 };

/// Runs `attack` over and over, while another thread calls `swap`, until there were enough of each and attacks have both
/// succeeded and failed: else the two did not meet.
fn race(least: Least, swap: impl Fn() + Sync, mut attack: impl FnMut() -> Result<(), Error>) {
    let (swaps, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                swap();
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _stop = AtEnd(&stop);
        let start = Instant::now();
        let (mut went, mut refused, mut attacks) = (0, 0, 0);
        let met = |attacks, went, refused| {
            swaps.load(Ordering::Relaxed) >= least.swaps
                && attacks >= least.attacks
                && went > 0
                && refused > 0
        };
        while !met(attacks, went, refused) && start.elapsed() < PATIENCE {
            attacks += 1;
            match attack() {
                Ok(()) => went += 1,
                Err(error) if error.is_permission_denied() => refused += 1,
                // It was moved while it was looked for.
                Err(error) => assert!(["not_found", "busy"].contains(&kind(&error).as_str()), "{error}"),
            }
        }
        assert!(met(attacks, went, refused), "of {attacks}, {went} went through and {refused} were refused");
    });
}

/// Gives each of two files the other's name, at once.
fn exchange(a: &Path, b: &Path) {
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).unwrap();
}

#[test]
fn a_file_that_becomes_a_link_out_and_back_is_never_a_way_out() {
    let daemon = granting(BELOW).run();
    let client = daemon.client();
    let descriptors = daemon.fds();
    let (files, outside) = (daemon.place().path("files"), outside(daemon.place()));
    let before = tree(&outside);
    // The other of the two waits where nobody may read.
    let (path, other) = (files.join("a"), daemon.place().path("other"));
    fs::write(&path, "inside").unwrap();
    symlink(outside.join("secret"), &other).unwrap();
    race(
        MANY,
        || exchange(&path, &other),
        || {
            let reply = call(&client, "fs.read_file", &path)?;
            assert_eq!(reply.bytes(), b"inside");
            Ok(())
        },
    );
    let mut turn = 0;
    race(
        MANY,
        || exchange(&path, &other),
        || {
            turn += 1;
            let call = write(&client, &path, "inside").arg("append", turn % 2 == 0);
            call.send().map(drop)
        },
    );
    assert_eq!(tree(&outside), before);
    descriptors_are_back(&daemon, descriptors);
}

#[test]
fn a_file_that_is_replaced_atomically_while_it_becomes_a_link_is_replaced_inside() {
    let daemon = granting(BELOW).run();
    let client = daemon.client();
    let descriptors = daemon.fds();
    let (files, outside) = (daemon.place().path("files"), outside(daemon.place()));
    let before = tree(&outside);
    let (path, other) = (files.join("a"), files.join("b"));
    fs::write(&path, "inside").unwrap();
    race(
        FEW,
        // Made anew each time, as what is renamed over it is gone.
        || {
            let _ = fs::remove_file(&other);
            symlink(outside.join("secret"), &other).unwrap();
            let _ = fs::rename(&other, &path);
            let _ = fs::remove_file(&path);
            fs::write(&other, "inside").unwrap();
            let _ = fs::rename(&other, &path);
        },
        || write(&client, &path, "inside").arg("atomic", true).send().map(drop),
    );
    assert_eq!(tree(&outside), before);
    descriptors_are_back(&daemon, descriptors);
}

#[test]
fn a_name_that_nothing_has_and_then_a_link_out_is_no_way_out() {
    let daemon = granting(BELOW).run();
    let client = daemon.client();
    let descriptors = daemon.fds();
    let (files, outside) = (daemon.place().path("files"), outside(daemon.place()));
    let before = tree(&outside);
    let path = files.join("a");
    let mut turn = 0;
    race(
        MANY,
        || {
            symlink(outside.join("new"), &path).unwrap_or_default();
            let _ = fs::remove_file(&path);
        },
        || {
            turn += 1;
            write(&client, &path, "inside").arg("atomic", turn % 16 == 0).send().map(drop)
        },
    );
    assert_eq!(tree(&outside), before);
    descriptors_are_back(&daemon, descriptors);
}

#[test]
fn a_directory_that_becomes_a_link_out_and_back_is_never_a_way_out() {
    let daemon = granting(BELOW).run();
    let client = daemon.client();
    let descriptors = daemon.fds();
    let (files, outside) = (daemon.place().path("files"), outside(daemon.place()));
    let before = tree(&outside);
    let (path, other) = (files.join("directory"), files.join("other"));
    fs::create_dir(&path).unwrap();
    fs::write(path.join("secret"), "inside").unwrap();
    symlink(&outside, &other).unwrap();
    let swap = || exchange(&path, &other);
    race(MANY, swap, || {
        let reply = call(&client, "fs.read_file", &path.join("secret"))?;
        assert_eq!(reply.bytes(), b"inside");
        Ok(())
    });
    race(MANY, swap, || {
        let listed = call(&client, "fs.read_dir", &path)?;
        assert!(!String::from_utf8_lossy(listed.bytes()).contains("directory"), "that is outside");
        Ok(())
    });
    let mut turn = 0;
    race(MANY, swap, || {
        turn += 1;
        let call = write(&client, &path.join(format!("new-{turn}")), "inside");
        call.arg("atomic", turn % 16 == 0).arg("mode", "0600").send().map(drop)
    });
    assert_eq!(tree(&outside), before, "nothing was made outside");
    descriptors_are_back(&daemon, descriptors);
}

/// Reads a file that grows from `least` bytes to beyond `most` and is cut back, until `enough` of (read, refused).
fn read_while_it_grows(least: usize, most: usize, enough: impl Fn(usize, usize) -> bool) {
    let daemon = granting(BELOW).run();
    let client = daemon.client();
    let descriptors = daemon.fds();
    let path = daemon.place().write("files/a", vec![b'x'; least]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::File::options().append(true).open(&path).unwrap();
            let block = vec![b'x'; 50_000];
            while !stop.load(Ordering::Relaxed) {
                file.write_all(&block).unwrap();
                if file.metadata().unwrap().len() > most as u64 {
                    file.set_len(least as u64).unwrap();
                }
            }
        });
        let _stop = AtEnd(&stop);
        let start = Instant::now();
        let (mut read, mut refused) = (0, 0);
        while !enough(read, refused) && start.elapsed() < PATIENCE {
            match call(&client, "fs.read_file", &path) {
                Ok(reply) => {
                    read += 1;
                    assert!((least..=limits::MAX_MESSAGE).contains(&reply.bytes().len()));
                    assert!(reply.bytes().iter().all(|byte| *byte == b'x'));
                }
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.code(), Some(ErrorCode::TooLarge), "{error}");
                }
            }
        }
        assert!(enough(read, refused), "{read} were read, {refused} refused");
    });
    client.ping().unwrap();
    descriptors_are_back(&daemon, descriptors);
}

#[test]
fn a_file_that_grows_or_shrinks_while_it_is_read_comes_as_it_was_at_some_time() {
    read_while_it_grows(10_000, 1_000_000, |read, _| read == 100);
    read_while_it_grows(limits::MAX_MESSAGE - 1_000_000, limits::MAX_MESSAGE + 1_000_000, |read, refused| {
        read > 0 && refused > 0
    });
}
