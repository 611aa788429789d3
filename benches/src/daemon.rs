//! A daemon of the bench's own, in a temporary directory.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use invoked_client::blocking::Client;
use invoked_client::{Address, Options};
use tempfile::TempDir;

use crate::failure::Failure;

/// How long a daemon may take to listen.
const START: Duration = Duration::from_secs(15);

/// Its socket, in its directory.
const SOCKET: &str = "run/invoked.sock";

/// The real daemon under `--dev`. It ends when this is dropped, and its directory with it.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    address: Address,
    directory: TempDir,
}

impl Daemon {
    /// Starts `program`, which inherits the processors of the calling thread. It reads no file of the user's.
    ///
    /// # Errors
    /// [`Failure::Io`] if it can't be started, [`Failure::Address`] if the temporary directory has too long a name.
    pub fn start(program: &Path) -> Result<Self, Failure> {
        Self::start_with(program, "", None)
    }

    /// The same, with `config` as its configuration, and for everybody to connect to, as far as `capabilities` allow anything.
    pub(crate) fn start_for_all(program: &Path, config: &str, capabilities: &str) -> Result<Self, Failure> {
        Self::start_with(program, config, Some(capabilities))
    }

    /// The same for this uid alone, with this as its configuration.
    pub(crate) fn start_as(program: &Path, config: &str) -> Result<Self, Failure> {
        Self::start_with(program, config, None)
    }

    fn start_with(program: &Path, config: &str, capabilities: Option<&str>) -> Result<Self, Failure> {
        let directory = tempfile::tempdir().map_err(Failure::io("can't make a temporary directory"))?;
        let path = directory.path();
        let address = Address::unix(path.join(SOCKET))?;
        let log = File::create(path.join("log")).map_err(Failure::io("can't make the daemon's log"))?;
        for name in ["shared", "config/invoked"] {
            std::fs::create_dir_all(path.join(name))
                .map_err(Failure::io("can't make a temporary directory"))?;
        }
        let written = std::fs::write(path.join("config/invoked/invoked.toml"), config);
        written.map_err(Failure::io("can't write the daemon's configuration"))?;
        if let Some(text) = capabilities {
            let everybody = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(path, everybody).map_err(Failure::io("can't change a mode"))?;
            let file = path.join("config/invoked/capabilities.d/bench.toml");
            std::fs::create_dir_all(file.with_file_name(""))
                .and_then(|()| std::fs::write(file, text))
                .map_err(Failure::io("can't write the daemon's capabilities"))?;
        }
        let mut command = Command::new(program);
        command.args(if capabilities.is_some() { ["--access", "everyone"] } else { ["--access", "owner"] });
        command.args(["--user", "--dev", "--log", "warn", "--address", &address.to_string()]);
        for variable in ["INVOKED_ADDRESS", "INVOKED_CONFIG", "INVOKED_LOG", "NOTIFY_SOCKET", "LISTEN_FDS"] {
            command.env_remove(variable);
        }
        command.env("XDG_CONFIG_HOME", path.join("config")).current_dir(path.join("shared"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().map_err(Failure::io(format!("can't start {}", program.display())))?;
        Ok(Daemon { child, address, directory })
    }

    /// How to connect to it.
    #[must_use]
    pub fn options(&self) -> Options {
        Options::new().address(self.address.clone()).name("bench", "")
    }

    /// Where its socket is.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join(SOCKET)
    }

    /// The directory whose files it gives.
    pub(crate) fn shared(&self) -> PathBuf {
        self.directory.path().join("shared")
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Its directory.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Connects as soon as it listens.
    ///
    /// # Errors
    /// [`Failure::Ended`] if it doesn't live, [`Failure::Connect`] if it doesn't answer.
    pub fn connect(&mut self) -> Result<Client, Failure> {
        let begin = Instant::now();
        loop {
            let error = match Client::connect(self.options()) {
                Ok(client) => return Ok(client),
                Err(error) => error,
            };
            let ended = self.child.try_wait().map_err(Failure::io("can't ask for the daemon"))?;
            if let Some(status) = ended {
                let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
                return Err(Failure::Ended { status, log });
            }
            if begin.elapsed() > START {
                return Err(error.into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
