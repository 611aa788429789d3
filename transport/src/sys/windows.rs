//! Named pipes: the seam where Windows comes in. Nothing is implemented yet, and each entry says so.

use std::io;

use crate::address::Address;

/// A named pipe that listens; none can be made yet.
#[derive(Debug)]
pub enum Listener {}

impl Listener {
    /// Refuses: named pipes are not implemented yet.
    ///
    /// # Errors
    ///
    /// Always [`io::ErrorKind::Unsupported`].
    pub fn bind(address: &Address) -> io::Result<Self> {
        Err(unsupported(address))
    }
}

/// A connected named pipe; none can be made yet.
#[derive(Debug)]
pub enum Stream {}

impl Stream {
    /// Refuses: named pipes are not implemented yet.
    ///
    /// # Errors
    ///
    /// Always [`io::ErrorKind::Unsupported`].
    pub fn connect(address: &Address) -> io::Result<Self> {
        Err(unsupported(address))
    }
}

fn unsupported(address: &Address) -> io::Error {
    let text =
        format!("{address}: invoked does not implement named pipes yet, and Unix sockets are for Unix");
    io::Error::new(io::ErrorKind::Unsupported, text)
}
