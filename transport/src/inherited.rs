//! Socket activation: a listener that was open before the process began (sd_listen_fds(3)).

use std::ffi::OsString;
use std::io;

use crate::listener::Listener;
use crate::sys;

impl Listener {
    /// The listener that systemd passed, if it passed one. It can be taken once.
    ///
    /// `env` answers for environment variables: `LISTEN_PID` must be this process, `LISTEN_FDS` the number passed. The process's
    /// own environment must say the same of `LISTEN_PID`, whatever `env` answers.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when more than one descriptor was passed; the error of `fcntl(2)` when it isn't open; `Other`, with [`AdoptError`](crate::AdoptError) as its
    /// source, when it is no listening Unix socket.
    pub fn inherited(env: &dyn Fn(&str) -> Option<OsString>) -> io::Result<Option<Self>> {
        let number = |name| env(name)?.to_str()?.parse::<u32>().ok();
        if number("LISTEN_PID") != Some(std::process::id()) {
            return Ok(None);
        }
        match number("LISTEN_FDS") {
            None | Some(0) => Ok(None),
            Some(1) => match sys::inherited::take_first()? {
                Some(fd) => Listener::from_fd(fd).map(Some).map_err(io::Error::other),
                None => Ok(None),
            },
            Some(more) => {
                let text = format!("{more} descriptors were passed, and one is wanted");
                Err(io::Error::new(io::ErrorKind::InvalidInput, text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use crate::listener::Listener;

    #[test]
    fn nothing_is_taken_that_was_passed_to_another_process() {
        let env = |name: &str| Some(OsString::from(if name == "LISTEN_PID" { "1" } else { "2" }));
        assert!(Listener::inherited(&env).expect("nothing to take").is_none());
    }

    #[test]
    fn an_environment_that_is_made_up_takes_nothing() {
        let pid = std::process::id().to_string();
        let env = |name: &str| Some(OsString::from(if name == "LISTEN_PID" { pid.as_str() } else { "1" }));
        assert!(Listener::inherited(&env).expect("nothing to take").is_none());
    }

    #[test]
    fn more_than_one_descriptor_is_refused() {
        let pid = std::process::id().to_string();
        let env = |name: &str| Some(OsString::from(if name == "LISTEN_PID" { pid.as_str() } else { "2" }));
        assert!(Listener::inherited(&env).is_err());
    }
}
