//! Where a daemon listens: an address, parsed once into a type that can only hold a usable one.
//!
//! Owns the text form of addresses and the limits of the operating system on them. It does not touch the file
//! system: whether anything listens at an address is [`Stream`](crate::Stream)'s and
//! [`Listener`](crate::Listener)'s to find out, and which address to use is [`choose_address`](crate::choose_address)'s.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;

/// The most bytes that the path of a Unix socket may have.
///
/// `sun_path` of `sockaddr_un` has 108 bytes on Linux and 104 on macOS and the BSDs; one is left for the final NUL, which
/// Linux doesn't ask for but other readers of the address do.
pub const MAX_SOCKET_PATH: usize = if cfg!(any(target_os = "linux", windows)) { 107 } else { 103 };

/// The most characters that the name of a Windows pipe may have, `\\.\pipe\` not counted.
pub const MAX_PIPE_NAME: usize = 247;

/// The most bytes that the name of an application may have; it becomes one directory's name.
pub const MAX_APP_NAME: usize = 64;

/// An address that a daemon can listen on and a peer can connect to.
///
/// The text form is `unix:/path/to.sock` or `pipe:name`; a bare absolute path is read as `unix:`. [`fmt::Display`] writes
/// the form with the scheme. Names in Linux's abstract namespace have no form here, because any uid may connect to them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// A Unix socket at a path.
    Unix(SocketPath),
    /// A Windows named pipe.
    Pipe(PipeName),
}

impl Address {
    /// Makes the address of a Unix socket.
    ///
    /// # Errors
    ///
    /// As [`SocketPath::new`].
    pub fn unix(path: impl Into<PathBuf>) -> Result<Self, AddressError> {
        Ok(Self::Unix(SocketPath::new(path)?))
    }

    /// Reads an address from an operating system string, as it comes from the environment or a command line.
    ///
    /// # Errors
    ///
    /// [`AddressError`] when the text is none of the forms, or names what the operating system can't take.
    pub fn parse(text: &OsStr) -> Result<Self, AddressError> {
        let bytes = text.as_encoded_bytes();
        if let Some(name) = bytes.strip_prefix(b"pipe:") {
            let name = std::str::from_utf8(name).map_err(|_| AddressError::PipeName { name: lossy(text) })?;
            return Ok(Self::Pipe(PipeName::new(name)?));
        }
        if bytes.starts_with(b"unix:") {
            return Self::unix(after_unix_scheme(text)?);
        }
        if bytes.starts_with(b"/") {
            return Self::unix(text);
        }
        Err(AddressError::NoScheme { text: lossy(text) })
    }

    /// The path of a Unix socket, or `None` for another kind of address.
    #[must_use]
    pub fn socket_path(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path.as_path()),
            Self::Pipe(_) => None,
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(OsStr::new(text))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.as_path().display()),
            Self::Pipe(name) => write!(f, "pipe:{}", name.as_str()),
        }
    }
}

/// The path of a Unix socket: absolute, without a NUL, with a file name, and at most [`MAX_SOCKET_PATH`] bytes long.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SocketPath(PathBuf);

impl SocketPath {
    /// Checks a path and keeps it.
    ///
    /// # Errors
    ///
    /// [`AddressError::Relative`], [`AddressError::Nul`], [`AddressError::NoFileName`] or [`AddressError::TooLong`].
    pub fn new(path: impl Into<PathBuf>) -> Result<Self, AddressError> {
        let path = path.into();
        let bytes = path.as_os_str().as_encoded_bytes();
        if bytes.contains(&0) {
            return Err(AddressError::Nul { path });
        }
        if !path.has_root() {
            return Err(AddressError::Relative { path });
        }
        // `file_name` also answers for `/run/dir/` and `/run/dir/.`, which name a directory.
        if path.file_name().is_none() || bytes.ends_with(b"/") || bytes.ends_with(b"/.") {
            return Err(AddressError::NoFileName { path });
        }
        if bytes.len() > MAX_SOCKET_PATH {
            let length = bytes.len();
            return Err(AddressError::TooLong { path, length, limit: MAX_SOCKET_PATH });
        }
        Ok(Self(path))
    }

    /// The path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// The directory that the socket is in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.0.parent().expect("a rooted path with a file name has a parent")
    }

    /// The socket's name in its directory.
    #[must_use]
    pub fn file_name(&self) -> &OsStr {
        self.0.file_name().expect("checked when the path was made")
    }

    /// The name, in the same directory, of the lock file that a daemon holds for as long as it listens.
    #[must_use]
    pub fn lock_name(&self) -> OsString {
        let mut name = self.file_name().to_os_string();
        name.push(".lock");
        name
    }
}

/// The name of a Windows named pipe, without `\\.\pipe\`: 1 to [`MAX_PIPE_NAME`] characters, no slash of either kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PipeName(String);

impl PipeName {
    /// Checks a name and keeps it.
    ///
    /// # Errors
    ///
    /// [`AddressError::PipeName`].
    pub fn new(name: impl Into<String>) -> Result<Self, AddressError> {
        let name = name.into();
        let fits = (1..=MAX_PIPE_NAME).contains(&name.chars().count());
        if !fits || name.chars().any(|c| matches!(c, '\\' | '/') || c.is_control()) {
            return Err(AddressError::PipeName { name });
        }
        Ok(Self(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of an application that is its own daemon, such as `org.acme.photos`.
///
/// It names a directory, so it has 1 to [`MAX_APP_NAME`] bytes of ASCII letters, digits, `.`, `-` and `_`, and starts with a
/// letter or a digit. `invoked` is the machine's own daemon.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AppName(String);

impl AppName {
    /// Checks a name and keeps it.
    ///
    /// # Errors
    ///
    /// [`AddressError::AppName`].
    pub fn new(name: impl Into<String>) -> Result<Self, AddressError> {
        let name = name.into();
        let fits = (1..=MAX_APP_NAME).contains(&name.len());
        let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if !fits || !starts || !name.chars().all(legal) {
            return Err(AddressError::AppName { name });
        }
        Ok(Self(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AppName {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl fmt::Display for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is not a usable address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AddressError {
    /// The text has no scheme and is no absolute path.
    #[error("`{text}` is not an address: write unix:/path/to.sock, pipe:name or an absolute path")]
    NoScheme {
        /// The text.
        text: String,
    },
    /// The path of a socket is not absolute.
    #[error("the socket path `{}` is not absolute: begin it with a /", path.display())]
    Relative {
        /// The path.
        path: PathBuf,
    },
    /// The path of a socket contains a NUL byte.
    #[error("the socket path `{}` contains a NUL byte", path.display())]
    Nul {
        /// The path.
        path: PathBuf,
    },
    /// The path of a socket ends in a directory.
    #[error("the socket path `{}` names a directory: add the socket's own name", path.display())]
    NoFileName {
        /// The path.
        path: PathBuf,
    },
    /// The path of a socket is longer than the operating system allows.
    #[error(
        "the socket path `{}` has {length} bytes and the system allows {limit}: \
         give a shorter one with --address or $INVOKED_ADDRESS", path.display()
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
        /// The most bytes allowed, [`MAX_SOCKET_PATH`].
        limit: usize,
    },
    /// The name of a pipe is empty, too long or has a slash.
    #[error("`{name}` is not a pipe's name: 1 to {MAX_PIPE_NAME} characters without / and \\ are allowed")]
    PipeName {
        /// The name.
        name: String,
    },
    /// The name of an application can't be a directory's name.
    #[error(
        "`{name}` is not an application's name: 1 to {MAX_APP_NAME} letters, digits, `.`, `-` and `_` are allowed, \
         the first a letter or a digit"
    )]
    AppName {
        /// The name.
        name: String,
    },
    /// An environment variable holds what is no address.
    #[error("${variable} holds no usable address")]
    Environment {
        /// The variable's name.
        variable: &'static str,
        /// What is wrong with its value.
        #[source]
        source: Box<AddressError>,
    },
    /// This platform has no rule for the default address.
    #[error("there is no default address on this platform yet: give one with --address")]
    NoDefault,
}

fn lossy(text: &OsStr) -> String {
    text.to_string_lossy().into_owned()
}

#[cfg(unix)]
fn after_unix_scheme(text: &OsStr) -> Result<&OsStr, AddressError> {
    use std::os::unix::ffi::OsStrExt;
    Ok(OsStr::from_bytes(&text.as_bytes()["unix:".len()..]))
}

#[cfg(not(unix))]
fn after_unix_scheme(text: &OsStr) -> Result<&OsStr, AddressError> {
    let path = text.to_str().and_then(|text| text.strip_prefix("unix:"));
    path.map(OsStr::new).ok_or_else(|| AddressError::NoScheme { text: lossy(text) })
}

#[cfg(test)]
mod tests {
    use super::{
        Address, AddressError, AppName, MAX_APP_NAME, MAX_PIPE_NAME, MAX_SOCKET_PATH, PipeName, SocketPath,
    };

    #[test]
    fn the_three_forms_parse_and_print() {
        for (text, printed) in [
            ("unix:/run/invoked/invoked.sock", "unix:/run/invoked/invoked.sock"),
            ("/run/x.sock", "unix:/run/x.sock"),
            ("pipe:invoked-S-1-5-18", "pipe:invoked-S-1-5-18"),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.to_string(), printed);
            assert_eq!(printed.parse::<Address>().expect(printed), address);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_by_its_fault() {
        let fault = |text: &str| text.parse::<Address>().expect_err(text);
        for text in ["", "invoked.sock", "tcp:127.0.0.1:1", "unix", "UNIX:/run/x"] {
            assert!(matches!(fault(text), AddressError::NoScheme { .. }), "{text}");
        }
        for text in ["unix:", "unix:x.sock", "unix:./x", "unix:@abstract"] {
            assert!(matches!(fault(text), AddressError::Relative { .. }), "{text}");
        }
        assert!(matches!(fault("unix:/run/\0/x"), AddressError::Nul { .. }));
        for text in ["/", "unix:/run/", "/run/..", "/run/."] {
            assert!(matches!(fault(text), AddressError::NoFileName { .. }), "{text}");
        }
        for text in ["pipe:", "pipe:a\\b", "pipe:a/b"] {
            assert!(matches!(fault(text), AddressError::PipeName { .. }), "{text}");
        }
    }

    #[test]
    fn a_path_is_too_long_one_byte_past_the_limit() {
        let path = |length: usize| format!("/{}", "x".repeat(length - 1));
        assert!(SocketPath::new(path(MAX_SOCKET_PATH)).is_ok());
        let refused = SocketPath::new(path(MAX_SOCKET_PATH + 1)).expect_err("one too long");
        assert!(matches!(refused, AddressError::TooLong { length, limit, .. }
            if length == MAX_SOCKET_PATH + 1 && limit == MAX_SOCKET_PATH));
        assert!(refused.to_string().contains(&format!("the system allows {MAX_SOCKET_PATH}")));
    }

    #[test]
    fn names_are_checked_at_their_limits() {
        assert!(PipeName::new("x".repeat(MAX_PIPE_NAME)).is_ok());
        assert!(PipeName::new("x".repeat(MAX_PIPE_NAME + 1)).is_err());
        assert!(AppName::new("x".repeat(MAX_APP_NAME)).is_ok());
        assert!(AppName::new("x".repeat(MAX_APP_NAME + 1)).is_err());
        assert!(AppName::new("org.acme.photos").is_ok());
        for name in ["", ".", "..", ".hidden", "-x", "a/b", "a b", "a\0", "ü"] {
            assert!(matches!(AppName::new(name), Err(AddressError::AppName { .. })), "{name}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_path_need_not_be_unicode() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let address = Address::parse(OsStr::from_bytes(b"unix:/run/\xff.sock")).expect("bytes are a path");
        assert_eq!(address.socket_path().expect("unix").as_os_str().as_bytes(), b"/run/\xff.sock");
    }

    #[test]
    fn the_lock_lies_beside_the_socket() {
        let path = SocketPath::new("/run/invoked/invoked.sock").expect("legal");
        assert_eq!(path.lock_name(), "invoked.sock.lock");
        assert_eq!(path.directory(), std::path::Path::new("/run/invoked"));
    }
}
