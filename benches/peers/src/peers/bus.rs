//! A D-Bus of the bench's own: dbus-broker, or dbus-daemon.
//!
//! It owns how they are started without systemd. Dbus-broker is told by its controller, over a socket that it finds as its
//! standard input, where to listen and what is allowed; this is the controller, and it allows everything.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::runtime::LocalRuntime;
use zbus::zvariant::SerializeValue;
use zbus::{Fd, ObjectPath};

use crate::asynchronous::runtime;
use crate::request::Fault;
use crate::server::{Place, Process};

/// How long a bus may take to start.
const START: Duration = Duration::from_secs(10);

/// Bytes and objects that each user may have in the broker: all of a run are of one user.
const QUOTA: &str = "1073741824";

/// The name under which [`serve_daemon`] is served.
pub(crate) const DAEMON: &str = "dbus-daemon";

/// Who carries the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Broker,
    Daemon,
}

/// A bus that ends when this is dropped.
pub(crate) struct Bus {
    process: Process,
    address: PathBuf,
    // The broker ends with its controller, and that lives on its runtime.
    _controller: Option<(zbus::Connection, LocalRuntime)>,
    directory: Option<TempDir>,
}

impl Bus {
    pub(crate) fn start(place: &Place<'_>, kind: Kind) -> Result<Self, Fault> {
        let directory = tempfile::tempdir()?;
        match kind {
            Kind::Broker => broker(place, directory),
            Kind::Daemon => daemon(place, directory),
        }
    }

    pub(crate) fn address(&self) -> &Path {
        &self.address
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The directory, which is to live as long as who uses it.
    pub(crate) fn take_directory(&mut self) -> Result<TempDir, Fault> {
        Ok(self.directory.take().ok_or("a bus has one server")?)
    }
}

fn broker(place: &Place<'_>, directory: TempDir) -> Result<Bus, Fault> {
    let address = directory.path().join("bus");
    let listener = UnixListener::bind(&address)?;
    // It accepts until there is nobody left.
    listener.set_nonblocking(true)?;
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new("dbus-broker");
    command.args(["--controller", "0", "--machine-id", "0123456789abcdef0123456789abcdef"]);
    command.args(["--max-bytes", QUOTA, "--max-objects", QUOTA]);
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
    let process = Process::start(place, &mut command)?;
    let runtime = runtime()?;
    let controller =
        runtime.block_on(async { tokio::time::timeout(START, control(ours, &listener)).await })??;
    Ok(Bus { process, address, _controller: Some((controller, runtime)), directory: Some(directory) })
}

/// What a user may do, as the broker takes it: connect; own names; send; receive. Each rule has its verdict and its
/// priority; what is empty or zero is not looked at.
type Rules<'a> = (bool, u64, Vec<Own<'a>>, Vec<Transmit<'a>>, Vec<Transmit<'a>>);
type Own<'a> = (bool, u64, bool, &'a str);
type Transmit<'a> = (bool, u64, &'a str, &'a str, &'a str, &'a str, u32, u32, u64, u64);

/// Rules by user, by ranges of users or groups; labels of SELinux; whether AppArmor is asked, and for which type of bus.
type Policy<'a> =
    (Vec<(u32, Rules<'a>)>, Vec<(bool, u32, u32, Rules<'a>)>, Vec<(&'a str, &'a str)>, bool, &'a str);

/// Tells the broker at the other end of `socket` to listen.
async fn control(socket: UnixStream, listener: &UnixListener) -> Result<zbus::Connection, Fault> {
    let connection = zbus::connection::Builder::unix_stream(socket).p2p().build().await?;
    let any: Transmit<'_> = (true, 1, "", "", "", "", 0, 0, 0, u64::MAX);
    let rules = (true, 1, vec![(true, 1, true, "")], vec![any], vec![any]);
    let policy: Policy<'_> = (vec![(u32::MAX, rules)], Vec::new(), Vec::new(), false, "session");
    let path = ObjectPath::try_from("/org/bus1/DBus/Listener/0")?;
    let body = (path, Fd::from(listener), SerializeValue(&policy));
    let broker = ("/org/bus1/DBus/Broker", Some("org.bus1.DBus.Broker"));
    connection.call_method(None::<&str>, broker.0, broker.1, "AddListener", &body).await?;
    Ok(connection)
}

/// Becomes dbus-daemon.
pub(crate) fn serve_daemon(config: &Path) -> Result<(), Fault> {
    let mut command = Command::new("dbus-daemon");
    command.arg("--nofork").arg("--nopidfile").arg(format!("--config-file={}", config.display()));
    Err(command.exec().into())
}

fn daemon(place: &Place<'_>, directory: TempDir) -> Result<Bus, Fault> {
    let address = directory.path().join("bus");
    let config = directory.path().join("bus.conf");
    // As for a session, without its services; the longest message is lifted to what the protocol allows.
    let listen = address.display();
    let text = format!(
        r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={listen}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
  <limit name="max_message_size">134217728</limit>
  <limit name="max_incoming_bytes">1000000000</limit>
  <limit name="max_outgoing_bytes">1000000000</limit>
</busconfig>
"#
    );
    std::fs::write(&config, text)?;
    // By way of this program, so that it ends with its parent; of the broker its controller's socket takes care.
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve", DAEMON]).arg(&config);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = Process::start(place, &mut command)?;
    let begin = Instant::now();
    while UnixStream::connect(&address).is_err() {
        if begin.elapsed() > START || process.has_ended() {
            return Err("dbus-daemon does not run, or does not listen".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(Bus { process, address, _controller: None, directory: Some(directory) })
}
