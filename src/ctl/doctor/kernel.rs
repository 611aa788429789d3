//! What the kernel offers, asked of the kernel itself where that can be done.

use invoked_transport::{FdRefusalState, PeerProcess, Stream};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Resource, getrlimit};

use super::Finding;

/// Descriptors below which a daemon reaches its own limit of connections late, and the system's early.
const FEW_DESCRIPTORS: u64 = 4096;

pub(super) fn findings() -> Vec<Finding> {
    vec![version(), peer_process(), refusal(), memfd(), descriptors()]
}

fn version() -> Finding {
    match std::fs::read_to_string("/proc/sys/kernel/osrelease") {
        Ok(release) => Finding::ok("kernel", format!("Linux {}", release.trim())),
        Err(error) => Finding::warn(
            "kernel",
            format!("its version can't be read: {error}"),
            "mount /proc, if this is Linux",
        ),
    }
}

fn peer_process() -> Finding {
    const CHECK: &str = "peer pidfd";
    match Stream::pair().and_then(|(stream, _other)| stream.credentials()) {
        Ok(credentials) => match credentials.process {
            PeerProcess::Held(_) => {
                Finding::ok(CHECK, "SO_PEERPIDFD: the kernel gives a hold on a peer's process")
            }
            PeerProcess::Ended | PeerProcess::Unsupported => Finding::warn(
                CHECK,
                "no SO_PEERPIDFD: capability files with exe or unit are refused",
                "a kernel from 6.5 on has it",
            ),
        },
        Err(error) => Finding::fail(
            CHECK,
            format!("the kernel does not say who a peer is: {error}"),
            "a sandbox may forbid it: look at what started this shell",
        ),
    }
}

fn refusal() -> Finding {
    const CHECK: &str = "fd refusal";
    match Stream::pair().and_then(|(stream, _other)| stream.refuse_fds()) {
        Ok(FdRefusalState::InForce) => {
            Finding::ok(CHECK, "SO_PASSRIGHTS: the kernel keeps unwanted descriptors away")
        }
        Ok(FdRefusalState::Unsupported) => Finding::warn(
            CHECK,
            "no SO_PASSRIGHTS: unwanted descriptors arrive, and are closed then",
            "a kernel from 6.16 on has it; nothing depends on it",
        ),
        Err(error) => Finding::warn(CHECK, format!("can't be tried: {error}"), "nothing depends on it"),
    }
}

fn memfd() -> Finding {
    const CHECK: &str = "memfd seals";
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    if memfd_create("invokectl-doctor", flags | MemfdFlags::NOEXEC_SEAL).is_ok() {
        return Finding::ok(CHECK, "MFD_NOEXEC_SEAL: shared memory can't become a program");
    }
    match memfd_create("invokectl-doctor", flags) {
        Ok(_) => Finding::warn(CHECK, "sealed, without MFD_NOEXEC_SEAL", "a kernel from 6.3 on has it"),
        Err(error) => Finding::warn(
            CHECK,
            format!("no shared memory: {error}"),
            "large bodies go through the socket then; a sandbox may forbid memfd_create",
        ),
    }
}

fn descriptors() -> Finding {
    const CHECK: &str = "descriptors";
    let limit = getrlimit(Resource::Nofile);
    let shown = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    let detail = format!("RLIMIT_NOFILE {} of at most {}", shown(limit.current), shown(limit.maximum));
    if limit.current.is_some_and(|current| current < FEW_DESCRIPTORS) {
        return Finding::warn(
            CHECK,
            format!("{detail}: a daemon started here can't hold many connections"),
            format!("ulimit -n {}", limit.maximum.unwrap_or(FEW_DESCRIPTORS).min(65_536)),
        );
    }
    Finding::ok(CHECK, detail)
}
