//! Results and bodies that are open files.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use invoked_proto::registry::limits;

use crate::error::Error;

/// How much [`OpenFile::copy_to`] reads at once.
const COPY: usize = 256 * 1024;

/// A part of a regular file that a command gave open, as its result ([`Options::files`](crate::Options::files)).
///
/// It is read at explicit places (`pread(2)`), so that clones and threads don't disturb each other. The file is what it was made
/// of: its bytes may change, and it may become shorter, while it is read.
#[derive(Debug, Clone)]
pub struct OpenFile {
    file: Arc<File>,
    offset: u64,
    len: u64,
}

impl PartialEq for OpenFile {
    /// Whether it is the same part of the same open file.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.file, &other.file) && (self.offset, self.len) == (other.offset, other.len)
    }
}

impl Eq for OpenFile {}

impl OpenFile {
    /// `None` unless it is a regular file.
    pub(crate) fn new(file: File, offset: u64, len: u64) -> Option<Self> {
        // Whatever else it is may block its reader for ever.
        let is_regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
        is_regular.then(|| OpenFile { file: Arc::new(file), offset, len })
    }

    /// Bytes that are meant, as the command said: there may be fewer by now.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True if no byte is meant.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first byte that is meant, in the file.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads what is `at` bytes behind the first into `buffer`, as much as there is; 0 at the end.
    ///
    /// # Errors
    /// Those of `pread(2)`.
    pub fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        let Some(from) = self.offset.checked_add(at).filter(|_| wanted > 0) else { return Ok(0) };
        loop {
            match self.file.read_at(&mut buffer[..wanted], from) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Writes all of it to `to`, and gives the number of bytes.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file has become shorter; those of reading and writing.
    pub fn copy_to(&self, to: &mut impl Write) -> io::Result<u64> {
        let mut buffer = vec![0; COPY.min(usize::try_from(self.len).unwrap_or(COPY))];
        let mut done = 0;
        while done < self.len {
            let read = self.read_at(&mut buffer, done)?;
            if read == 0 {
                return Err(became_shorter());
            }
            to.write_all(&buffer[..read])?;
            done += read as u64;
        }
        Ok(done)
    }

    /// Reads all of it into memory.
    ///
    /// # Errors
    /// As [`copy_to`](Self::copy_to); `OutOfMemory` if it is larger than memory can be.
    pub fn read_all(&self) -> io::Result<Vec<u8>> {
        let len = usize::try_from(self.len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        self.copy_to(&mut bytes)?;
        Ok(bytes)
    }

    /// The file itself: all of it, not only what is meant.
    #[must_use]
    pub fn as_file(&self) -> &File {
        &self.file
    }
}

/// An open regular file on its way to the daemon.
#[derive(Debug, Clone)]
pub(crate) struct FileBody(OpenFile);

impl FileBody {
    /// What is left of a large regular file; the bytes themselves of any other.
    ///
    /// # Errors
    /// Those of reading it.
    pub(crate) fn of(file: &File) -> io::Result<Result<Self, Bytes>> {
        let metadata = file.metadata()?;
        if metadata.is_file() {
            let offset = (&*file).stream_position()?;
            let len = metadata.len().saturating_sub(offset);
            if len >= limits::FILE_FROM as u64 {
                let part = OpenFile { file: Arc::new(file.try_clone()?), offset, len };
                return Ok(Ok(FileBody(part)));
            }
        }
        let mut bytes = Vec::new();
        // One more than allowed is refused when it is sent.
        file.take(limits::MAX_MESSAGE as u64 + 1).read_to_end(&mut bytes)?;
        Ok(Err(bytes.into()))
    }

    /// The file, and which of its bytes are meant.
    pub(crate) fn part(&self) -> &OpenFile {
        &self.0
    }

    /// Reads it after all.
    ///
    /// # Errors
    /// If it can't be read, or is larger than any message.
    pub(crate) fn read(&self) -> Result<Bytes, Error> {
        if self.0.len > limits::MAX_MESSAGE as u64 {
            let max = limits::MAX_MESSAGE;
            return Err(Error::argument(format!(
                "the file has {} bytes, and a message {max} at most",
                self.0.len
            )));
        }
        self.0.read_all().map(Bytes::from).map_err(|error| Error::bad_file(&error))
    }
}

impl Error {
    /// A file that was to be sent can't be read.
    pub(crate) fn bad_file(error: &io::Error) -> Self {
        Error::argument(format!("the file can't be read: {error}"))
    }
}

fn became_shorter() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter")
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{ErrorKind, Write};
    use std::os::fd::OwnedFd;

    use super::OpenFile;

    fn open(bytes: &[u8], offset: u64, len: u64) -> (OpenFile, File) {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        let part = OpenFile::new(file.try_clone().expect("a copy"), offset, len).expect("a regular file");
        (part, file)
    }

    #[test]
    fn a_part_is_what_is_read() {
        let (part, _file) = open(b"0123456789", 2, 5);
        assert_eq!(part.read_all().expect("read"), b"23456");
        let mut buffer = [0; 3];
        assert_eq!((part.read_at(&mut buffer, 0).expect("read"), &buffer), (3, b"234"));
        assert_eq!((part.read_at(&mut buffer, 4).expect("read"), buffer[0]), (1, b'6'));
        assert_eq!(part.read_at(&mut buffer, 5).expect("the end"), 0);
        assert_eq!(part.read_at(&mut buffer, u64::MAX).expect("the end"), 0);
    }

    #[test]
    fn a_file_that_became_shorter_is_told() {
        let (part, file) = open(b"0123456789", 2, 8);
        file.set_len(6).expect("cut");
        let mut copied = Vec::new();
        assert_eq!(part.copy_to(&mut copied).expect_err("shorter").kind(), ErrorKind::UnexpectedEof);
        assert_eq!(copied, b"2345");
        assert_eq!(part.read_all().expect_err("shorter").kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_no_regular_file_is_none() {
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        assert!(OpenFile::new(File::from(OwnedFd::from(reader)), 0, 1).is_none());
        assert!(OpenFile::new(File::open("/dev/zero").expect("opened"), 0, 1).is_none());
        assert!(OpenFile::new(File::open("/").expect("opened"), 0, 1).is_none());
    }
}
