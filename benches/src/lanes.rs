//! Large replies by each way there is: in the frames, by shared memory, as an open file.

use std::hint::black_box;
use std::path::PathBuf;

use invoked::ctl::bench::{BenchError, HOSTED, Subject};
use invoked_client::blocking::Client;
use invoked_client::{Options, Reply};

use crate::daemon::Daemon;
use crate::failure::Failure;

/// The reader touches a byte in so many, as one does who looks at a page.
const PAGE: usize = 4096;

/// How a large reply comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// In the frames, through the socket.
    Inline,
    /// The handler's bytes are copied once, to where the client reads them.
    Pool,
    /// The handler writes where the client reads: one byte a page.
    InPlace,
    /// The client gets the open file, and copies it to a buffer.
    File,
}

/// A command of the daemon, called by the blocking Rust client on a connection of its own.
#[derive(Debug)]
pub(crate) struct Replies {
    client: Client,
    lane: Lane,
    files: PathBuf,
    buffer: Vec<u8>,
}

impl Lane {
    fn mode(self) -> &'static str {
        match self {
            Lane::Inline => "inline",
            Lane::Pool => "pool",
            Lane::InPlace => "in place",
            Lane::File => "file",
        }
    }

    fn options(self, options: Options) -> Options {
        match self {
            Lane::Inline => options.shared_memory(false),
            Lane::Pool | Lane::InPlace => options,
            Lane::File => options.files(true),
        }
    }
}

impl Replies {
    /// Connects to a daemon that listens, and makes the files of `sizes` if they are what it answers with.
    pub(crate) fn connect(daemon: &Daemon, lane: Lane, sizes: &[u32]) -> Result<Self, Failure> {
        let client = Client::connect(lane.options(daemon.options()))?;
        let files = daemon.shared();
        for size in sizes.iter().filter(|_| lane == Lane::File) {
            let bytes = vec![0; usize::try_from(*size).unwrap_or(usize::MAX)];
            std::fs::write(files.join(size.to_string()), bytes).map_err(Failure::io("can't write a file"))?;
        }
        Ok(Replies { client, lane, files, buffer: Vec::new() })
    }

    fn call(&self, size: u32) -> Result<Reply, invoked_client::Error> {
        match self.lane {
            Lane::Inline | Lane::Pool => self.client.call("bench.bytes").arg("len", size).send(),
            Lane::InPlace => self.client.call("bench.fill").arg("len", size).send(),
            Lane::File => {
                self.client.call("fs.read_file").arg("path", self.files.join(size.to_string())).send()
            }
        }
    }
}

impl Subject for Replies {
    fn system(&self) -> &'static str {
        HOSTED
    }

    fn mode(&self, _size: u32) -> &'static str {
        self.lane.mode()
    }

    fn round_trip(&mut self, size: u32) -> Result<(), BenchError> {
        let reply = self.call(size).map_err(|error| BenchError::Call(Box::new(error)))?;
        let len = usize::try_from(size).unwrap_or(usize::MAX);
        let wrong = |got| BenchError::WrongReply { system: HOSTED, got, expected: size };
        if self.lane != Lane::File {
            let written = if self.lane == Lane::InPlace { len.div_ceil(PAGE) } else { 0 };
            return match reply.bytes() {
                bytes if bytes.len() == len && touch(bytes) == written => Ok(()),
                bytes => Err(wrong(bytes.len())),
            };
        }
        // One that comes as bytes is not what is measured here.
        let file = reply.file().ok_or_else(|| wrong(reply.bytes().len()))?;
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        let mut got = 0;
        while got < len {
            let read = file.read_at(&mut self.buffer[got..len], got as u64);
            match read.map_err(|source| BenchError::Io { what: "can't read the file".to_owned(), source })? {
                0 => return Err(wrong(got)),
                read => got += read,
            }
        }
        Ok(())
    }
}

/// Reads a byte of each page, and tells their sum.
fn touch(bytes: &[u8]) -> usize {
    black_box(bytes).iter().step_by(PAGE).map(|byte| usize::from(*byte)).sum()
}

#[cfg(test)]
mod tests {
    use invoked_client::Options;

    use super::{Lane, PAGE, touch};

    #[test]
    fn each_page_is_touched_once_the_last_part_of_one_too() {
        assert_eq!(touch(&[]), 0);
        let mut bytes = vec![0; 2 * PAGE + 1];
        for page in bytes.iter_mut().step_by(PAGE) {
            *page = 1;
        }
        assert_eq!(touch(&bytes), 3);
        bytes[1] = 1;
        assert_eq!(touch(&bytes), 3, "and nothing else");
    }

    #[test]
    fn each_lane_has_its_name_and_asks_for_what_it_needs() {
        let lanes = [Lane::Inline, Lane::Pool, Lane::InPlace, Lane::File];
        assert_eq!(lanes.map(Lane::mode), ["inline", "pool", "in place", "file"]);
        let options = |lane: Lane| format!("{:?}", lane.options(Options::new()));
        assert_ne!(options(Lane::Inline), options(Lane::Pool));
        assert_ne!(options(Lane::File), options(Lane::Pool));
    }
}
