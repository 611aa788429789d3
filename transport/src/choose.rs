//! Which address to use when nobody, or somebody, said so, and why it was that one.
//!
//! Owns the order of precedence. It reads the environment only through the function it is given and never connects.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::address::{Address, AddressError, AppName};

/// The environment variable that names an address.
pub const ADDRESS_VARIABLE: &str = "INVOKED_ADDRESS";

const DEFAULT_APP: &str = "invoked";
const SOCKET_NAME: &str = "invoked.sock";

/// Whose daemon is meant, where no address says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// The system's for uid 0, the user's own for everyone else.
    #[default]
    Auto,
    /// The system's (`--system`).
    System,
    /// The user's own (`--user`).
    User,
}

/// What the command line or a host says about the address.
#[derive(Clone, Debug, Default)]
pub struct AddressOptions {
    /// The address given by `--address`; it beats everything else.
    pub explicit: Option<Address>,
    /// `--system` or `--user`.
    pub scope: Scope,
    /// The application whose daemon is meant; `None` is the machine's own, `invoked`.
    pub app: Option<AppName>,
}

/// Why an address was chosen; [`fmt::Display`] says it as the end of "the address comes from …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AddressSource {
    /// `--address`, or the code of a host.
    Flag,
    /// `$INVOKED_ADDRESS`.
    Environment,
    /// The system's address, because `--system` was given.
    SystemFlag,
    /// The system's address, because the process runs as uid 0.
    SystemDefault,
    /// A directory of the user's in `$XDG_RUNTIME_DIR`.
    RuntimeDir,
    /// A directory of the user's in `/run/user/UID`.
    RunUser,
    /// A directory `invoked-UID` in the temporary directory.
    TempDir,
    /// The user's pipe on Windows.
    UserPipe,
}

impl AddressSource {
    /// Whether a person or a program named this very address, rather than a rule.
    #[must_use]
    pub fn is_explicit(self) -> bool {
        matches!(self, Self::Flag | Self::Environment)
    }
}

impl fmt::Display for AddressSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "--address",
            Self::Environment => "$INVOKED_ADDRESS",
            Self::SystemFlag => "--system",
            Self::SystemDefault => "the default for uid 0",
            Self::RuntimeDir => "$XDG_RUNTIME_DIR",
            Self::RunUser => "the user's directory in /run/user",
            Self::TempDir => "the temporary directory, as the user has no runtime directory",
            Self::UserPipe => "the default for this user",
        })
    }
}

/// An address and why it was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenAddress {
    /// The address.
    pub address: Address,
    /// Why it was chosen.
    pub source: AddressSource,
}

/// Chooses the address to listen on or to connect to; both sides reach the same one from the same environment.
///
/// In this order: [`AddressOptions::explicit`]; `$INVOKED_ADDRESS`; the scope, which is the system's for uid 0 unless it says
/// otherwise. The system's address is `/run/invoked/invoked.sock`. The user's is `$XDG_RUNTIME_DIR/invoked/invoked.sock`, else
/// `/run/user/UID/invoked/invoked.sock`, either only if that directory exists and is the user's own; else
/// `invoked-UID/invoked.sock` in `$TMPDIR` or `/tmp`. An application's name stands in for the directory `invoked`, and under
/// the temporary directory it is a directory of its own in `invoked-UID`.
///
/// `env` answers for environment variables, so that tests need not change the process's own; [`process_env`] is the real one.
/// An empty variable counts as absent.
///
/// # Errors
///
/// [`AddressError::Environment`] when `$INVOKED_ADDRESS` is malformed: it is never skipped silently.
/// [`AddressError::TooLong`] when a directory's path leaves no room for the socket's name.
#[cfg(unix)]
pub fn choose_address(
    options: &AddressOptions,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<ChosenAddress, AddressError> {
    let uid = rustix::process::geteuid().as_raw();
    let owns = |path: &Path| owns_directory(path, uid);
    Surroundings { uid, env, owns: &owns }.choose(options)
}

/// Chooses the address to listen on or to connect to.
///
/// # Errors
///
/// [`AddressError::Environment`] when `$INVOKED_ADDRESS` is malformed, [`AddressError::NoDefault`] when neither it nor
/// [`AddressOptions::explicit`] names an address: the pipe's default name needs the user's SID, which nothing reads yet.
#[cfg(not(unix))]
pub fn choose_address(
    options: &AddressOptions,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<ChosenAddress, AddressError> {
    named_address(options, env)?.ok_or(AddressError::NoDefault)
}

/// The addresses at which a daemon might also be, the system's and the user's, for telling a user whose connect failed.
///
/// The same rules as [`choose_address`] without `explicit` and `$INVOKED_ADDRESS`; those that can't be formed are left out.
#[cfg(unix)]
#[must_use]
pub fn default_addresses(
    app: Option<&AppName>,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Vec<ChosenAddress> {
    let uid = rustix::process::geteuid().as_raw();
    let owns = |path: &Path| owns_directory(path, uid);
    let surroundings = Surroundings { uid, env, owns: &owns };
    [surroundings.system(app, AddressSource::SystemFlag), surroundings.user(app)]
        .into_iter()
        .filter_map(Result::ok)
        .collect()
}

/// Reads a variable of this process's environment, for [`choose_address`].
#[must_use]
pub fn process_env(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// What the choice depends on besides the options.
struct Surroundings<'a> {
    uid: u32,
    env: &'a dyn Fn(&str) -> Option<OsString>,
    /// Whether a path is a directory of this uid's.
    owns: &'a dyn Fn(&Path) -> bool,
}

impl Surroundings<'_> {
    fn choose(&self, options: &AddressOptions) -> Result<ChosenAddress, AddressError> {
        if let Some(named) = named_address(options, self.env)? {
            return Ok(named);
        }
        let app = options.app.as_ref();
        match options.scope {
            Scope::System => self.system(app, AddressSource::SystemFlag),
            Scope::Auto if self.uid == 0 => self.system(app, AddressSource::SystemDefault),
            Scope::Auto | Scope::User => self.user(app),
        }
    }

    fn system(&self, app: Option<&AppName>, source: AddressSource) -> Result<ChosenAddress, AddressError> {
        chosen(Path::new("/run").join(directory_name(app)), source)
    }

    fn user(&self, app: Option<&AppName>) -> Result<ChosenAddress, AddressError> {
        let run_user = PathBuf::from(format!("/run/user/{}", self.uid));
        if let Some(runtime) = self.absolute("XDG_RUNTIME_DIR")
            && (self.owns)(&runtime)
        {
            return chosen(runtime.join(directory_name(app)), AddressSource::RuntimeDir);
        }
        if (self.owns)(&run_user) {
            return chosen(run_user.join(directory_name(app)), AddressSource::RunUser);
        }
        let temporary = self.absolute("TMPDIR").unwrap_or_else(|| PathBuf::from("/tmp"));
        let own = temporary.join(format!("{DEFAULT_APP}-{}", self.uid));
        // `invoked` is the machine's own daemon by either spelling, so it must give one address.
        let directory = match app.map(AppName::as_str) {
            None | Some(DEFAULT_APP) => own,
            Some(app) => own.join(app),
        };
        chosen(directory, AddressSource::TempDir)
    }

    fn absolute(&self, variable: &str) -> Option<PathBuf> {
        (self.env)(variable).map(PathBuf::from).filter(|path| path.is_absolute())
    }
}

fn named_address(
    options: &AddressOptions,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Option<ChosenAddress>, AddressError> {
    if let Some(address) = &options.explicit {
        return Ok(Some(ChosenAddress { address: address.clone(), source: AddressSource::Flag }));
    }
    let Some(text) = env(ADDRESS_VARIABLE).filter(|text| !text.is_empty()) else { return Ok(None) };
    let address = Address::parse(&text)
        .map_err(|error| AddressError::Environment { variable: ADDRESS_VARIABLE, source: Box::new(error) })?;
    Ok(Some(ChosenAddress { address, source: AddressSource::Environment }))
}

fn chosen(directory: PathBuf, source: AddressSource) -> Result<ChosenAddress, AddressError> {
    Ok(ChosenAddress { address: Address::unix(directory.join(SOCKET_NAME))?, source })
}

fn directory_name(app: Option<&AppName>) -> &OsStr {
    OsStr::new(app.map_or(DEFAULT_APP, AppName::as_str))
}

#[cfg(unix)]
fn owns_directory(path: &Path, uid: u32) -> bool {
    use std::os::unix::fs::MetadataExt;
    path.metadata().is_ok_and(|found| found.is_dir() && found.uid() == uid)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;

    use super::{AddressOptions, AddressSource, ChosenAddress, Scope, Surroundings};
    use crate::address::{Address, AddressError, AppName};

    fn choose(
        uid: u32,
        options: &AddressOptions,
        env: &[(&str, &str)],
        owned: &[&str],
    ) -> Result<ChosenAddress, AddressError> {
        let env =
            |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        let owns = |path: &Path| owned.iter().any(|own| Path::new(own) == path);
        Surroundings { uid, env: &env, owns: &owns }.choose(options)
    }

    fn expect(
        uid: u32,
        options: &AddressOptions,
        env: &[(&str, &str)],
        owned: &[&str],
    ) -> (String, AddressSource) {
        let chosen = choose(uid, options, env, owned).expect("an address");
        (chosen.address.to_string(), chosen.source)
    }

    fn scoped(scope: Scope) -> AddressOptions {
        AddressOptions { scope, ..AddressOptions::default() }
    }

    #[test]
    fn the_flag_beats_the_environment_beats_the_scope() {
        let env = [("INVOKED_ADDRESS", "unix:/env.sock"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        let owned = ["/run/user/7"];
        let mut options = scoped(Scope::System);
        assert_eq!(expect(7, &options, &env, &owned), ("unix:/env.sock".into(), AddressSource::Environment));
        options.explicit = Some(Address::unix("/flag.sock").expect("legal"));
        assert_eq!(expect(7, &options, &env, &owned), ("unix:/flag.sock".into(), AddressSource::Flag));
    }

    #[test]
    fn uid_0_gets_the_system_unless_told_otherwise() {
        let system = "unix:/run/invoked/invoked.sock".to_string();
        let auto = AddressOptions::default();
        assert_eq!(expect(0, &auto, &[], &[]), (system.clone(), AddressSource::SystemDefault));
        assert_eq!(expect(7, &scoped(Scope::System), &[], &[]), (system, AddressSource::SystemFlag));
        assert_eq!(
            expect(0, &scoped(Scope::User), &[], &["/run/user/0"]),
            ("unix:/run/user/0/invoked/invoked.sock".into(), AddressSource::RunUser)
        );
    }

    #[test]
    fn a_user_gets_the_first_directory_that_is_the_users() {
        let auto = AddressOptions::default();
        let env = [("XDG_RUNTIME_DIR", "/x/rt")];
        assert_eq!(
            expect(7, &auto, &env, &["/x/rt", "/run/user/7"]),
            ("unix:/x/rt/invoked/invoked.sock".into(), AddressSource::RuntimeDir)
        );
        // As after `su`: the variable still names somebody else's directory.
        assert_eq!(
            expect(7, &auto, &env, &["/run/user/7"]),
            ("unix:/run/user/7/invoked/invoked.sock".into(), AddressSource::RunUser)
        );
        assert_eq!(
            expect(7, &auto, &env, &[]),
            ("unix:/tmp/invoked-7/invoked.sock".into(), AddressSource::TempDir)
        );
        assert_eq!(
            expect(7, &auto, &[("TMPDIR", "/var/tmp")], &[]),
            ("unix:/var/tmp/invoked-7/invoked.sock".into(), AddressSource::TempDir)
        );
        assert_eq!(
            expect(7, &auto, &[("XDG_RUNTIME_DIR", "rt"), ("TMPDIR", "tmp")], &["rt"]),
            ("unix:/tmp/invoked-7/invoked.sock".into(), AddressSource::TempDir),
            "relative directories don't count"
        );
    }

    #[test]
    fn an_application_has_its_own_directory() {
        let app = |name: &str| AddressOptions {
            app: Some(AppName::new(name).expect("legal")),
            ..AddressOptions::default()
        };
        let photos = app("org.acme.photos");
        assert_eq!(expect(0, &photos, &[], &[]).0, "unix:/run/org.acme.photos/invoked.sock");
        assert_eq!(
            expect(7, &photos, &[], &["/run/user/7"]).0,
            "unix:/run/user/7/org.acme.photos/invoked.sock"
        );
        assert_eq!(expect(7, &photos, &[], &[]).0, "unix:/tmp/invoked-7/org.acme.photos/invoked.sock");
        assert_eq!(expect(7, &app("invoked"), &[], &[]), expect(7, &AddressOptions::default(), &[], &[]));
    }

    #[test]
    fn a_malformed_environment_is_an_error_and_an_empty_one_is_absent() {
        let auto = AddressOptions::default();
        let refused = choose(7, &auto, &[("INVOKED_ADDRESS", "nonsense")], &[]).expect_err("malformed");
        assert!(matches!(refused, AddressError::Environment { variable: "INVOKED_ADDRESS", .. }));
        assert_eq!(expect(7, &auto, &[("INVOKED_ADDRESS", "")], &[]).1, AddressSource::TempDir);
    }

    #[test]
    fn a_long_runtime_directory_is_an_error_that_names_the_limit() {
        let long = format!("/{}", "x".repeat(100));
        let refused = choose(7, &AddressOptions::default(), &[("XDG_RUNTIME_DIR", &long)], &[&long]);
        assert!(matches!(refused, Err(AddressError::TooLong { limit: 107, .. })), "{refused:?}");
    }
}
