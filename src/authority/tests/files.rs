//! Which files are read, and which are refused before anybody reads them.
#![cfg(unix)]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{Users, ana, lines, manifests, may};
use crate::authority::load::{DirectoryContents, MAX_FILE_LEN, PolicyDirectory, load};
use crate::authority::{CompiledPolicy, Policy, PolicyError};

const GREET: &str = "identifier = 'greet'\npeers = ['user:ana']\npermissions = ['allow-greet']\n";

/// A capability directory that is in order.
struct World {
    root: TempDir,
    uid: u32,
}

impl World {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        let world = World { uid: fs::metadata(root.path()).unwrap().uid(), root };
        fs::create_dir(world.dir()).unwrap();
        world.mode(&world.dir(), 0o755);
        world.write("greet.toml", GREET);
        world
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("capabilities.d")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
        self.mode(&self.path(name), 0o644);
    }

    fn mode(&self, path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn load_as(&self, uid: u32) -> Result<CompiledPolicy, Vec<PolicyError>> {
        let policy = manifests().into_iter().fold(Policy::new(uid, &Users), Policy::manifest);
        load(policy, &[PolicyDirectory::required(self.dir())])
    }

    fn load(&self) -> Result<CompiledPolicy, Vec<PolicyError>> {
        self.load_as(self.uid)
    }

    /// The only error, with the temporary directory written as `…`.
    fn error(&self) -> String {
        let text = lines(&self.load().expect_err("this must be refused"));
        text.replace(self.root.path().to_str().unwrap(), "…").trim_end().to_owned()
    }
}

#[test]
fn files_are_read_and_errors_name_them() {
    let world = World::new();
    world.write(".hidden.toml", "x");
    world.write("greet.toml~", "x");
    world.write("README", "x");
    let compiled = world.load().unwrap();
    assert!(may(&compiled, &ana(), "greet"));
    let warning =
        format!("{}: skipped: a capability file ends in .toml or .json\n", world.path("README").display());
    assert_eq!(lines(&compiled.warnings), warning);

    world.write("b.json", "{}");
    let errors = world.load().unwrap_err();
    assert_eq!(errors[0].file(), "b.json");
    assert_eq!(errors[0].path(), Some(&*world.path("b.json")));
}

#[test]
fn files_of_one_name_are_named_by_their_paths() {
    let (first, second) = (World::new(), World::new());
    let policy = manifests().into_iter().fold(Policy::new(first.uid, &Users), Policy::manifest);
    let both = [PolicyDirectory::required(first.dir()), PolicyDirectory::required(second.dir())];
    let errors = load(policy, &both).unwrap_err();
    let (one, two) = (first.path("greet.toml"), second.path("greet.toml"));
    let expected = format!(
        "{}:1:14: a second capability \"greet\"; the first is at {}:1\n",
        two.display(),
        one.display()
    );
    assert_eq!(lines(&errors), expected);
}

#[test]
fn a_directory_that_somebody_named_must_be_there() {
    let world = World::new();
    let absent = world.root.path().join("absent");
    let policy = || manifests().into_iter().fold(Policy::new(world.uid, &Users), Policy::manifest);
    assert!(load(policy(), &[PolicyDirectory::optional(&absent)]).unwrap().warnings.is_empty());
    let errors = load(policy(), &[PolicyDirectory::required(&absent)]).unwrap_err();
    assert!(lines(&errors).starts_with(&format!("{}: can't be read: No such file", absent.display())));
    let file = world.path("greet.toml");
    let errors = load(policy(), &[PolicyDirectory::optional(&file)]).unwrap_err();
    assert_eq!(lines(&errors), format!("{}: is not a directory\n", file.display()));
}

#[test]
fn what_others_may_write_is_refused() {
    for (name, mode, why) in [
        ("greet.toml", 0o664, "its group may write it (mode 0664); chmod go-w …/capabilities.d/greet.toml"),
        ("greet.toml", 0o646, "everyone may write it (mode 0646); chmod go-w …/capabilities.d/greet.toml"),
        ("", 0o775, "its group may write it (mode 0775); chmod go-w …/capabilities.d"),
        ("", 0o1777, "everyone may write it (mode 1777); chmod go-w …/capabilities.d"),
    ] {
        let world = World::new();
        let path = if name.is_empty() { world.dir() } else { world.path(name) };
        world.mode(&path, mode);
        let place = if name.is_empty() { "…/capabilities.d" } else { "…/capabilities.d/greet.toml" };
        assert_eq!(world.error(), format!("{place}: refused: {why}"));
        world.mode(&path, if name.is_empty() { 0o700 } else { 0o400 });
        assert!(world.load().is_ok());
    }
}

#[test]
fn a_directory_on_the_way_that_others_may_write_is_refused() {
    let world = World::new();
    world.mode(world.root.path(), 0o777);
    assert_eq!(world.error(), "…: refused: everyone may write it (mode 0777); chmod go-w …");
    // Nobody can rename another's entries in a directory with the sticky bit.
    world.mode(world.root.path(), 0o1777);
    assert!(world.load().is_ok());
}

#[test]
fn files_of_somebody_else_are_refused() {
    // Root may give files away; anyone else finds root's files to be root's, which is in order.
    let world = World::new();
    if world.uid == 0 {
        std::os::unix::fs::chown(world.path("greet.toml"), Some(1234), None).unwrap();
        let why = "refused: it belongs to uid 1234, neither root nor the daemon's own uid";
        assert_eq!(world.error(), format!("…/capabilities.d/greet.toml: {why} 0"));
        // The owner of the files may run a daemon on them; root's directory around them is in order.
        assert!(world.load_as(1234).is_ok());
        let other = lines(&world.load_as(1235).unwrap_err());
        assert!(other.ends_with(&format!("{why} 1235\n")), "{other}");
        std::os::unix::fs::chown(world.path("greet.toml"), Some(0), None).unwrap();
        symlink("greet.toml", world.path("link.toml")).unwrap();
        std::os::unix::fs::lchown(world.path("link.toml"), Some(1234), None).unwrap();
        assert_eq!(world.error(), format!("…/capabilities.d/link.toml: {why} 0"));
    } else {
        let other = lines(&world.load_as(world.uid + 1).unwrap_err());
        assert!(other.contains(&format!("it belongs to uid {}", world.uid)), "{other}");
    }
}

#[test]
fn links_are_followed_and_every_directory_on_the_way_is_checked() {
    let world = World::new();
    let elsewhere = world.root.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    world.mode(&elsewhere, 0o755);
    fs::rename(world.path("greet.toml"), elsewhere.join("real")).unwrap();
    symlink("../elsewhere/middle", world.path("greet.toml")).unwrap();
    symlink(elsewhere.join("real"), elsewhere.join("middle")).unwrap();
    assert!(may(&world.load().unwrap(), &ana(), "greet"));

    // The file is in order; who may write the directory of a link could make it lead elsewhere.
    world.mode(&elsewhere, 0o777);
    assert_eq!(
        world.error(),
        "…/elsewhere: refused: everyone may write it (mode 0777); chmod go-w …/elsewhere"
    );
    world.mode(&elsewhere, 0o755);
    world.mode(&elsewhere.join("real"), 0o666);
    assert_eq!(
        world.error(),
        "…/elsewhere/real: refused: everyone may write it (mode 0666); chmod go-w …/elsewhere/real"
    );
}

#[test]
fn links_that_lead_nowhere_or_in_circles_are_refused() {
    let world = World::new();
    symlink("loop.toml", world.path("loop.toml")).unwrap();
    assert_eq!(world.error(), "…/capabilities.d/loop.toml: too many symbolic links");
    fs::remove_file(world.path("loop.toml")).unwrap();
    symlink("absent", world.path("gone.toml")).unwrap();
    assert!(world.error().starts_with("…/capabilities.d/gone.toml: can't be read: No such file"));
}

#[test]
fn what_is_no_file_is_refused_and_not_opened() {
    let world = World::new();
    fs::create_dir(world.path("dir.toml")).unwrap();
    assert_eq!(world.error(), "…/capabilities.d/dir.toml: is not a regular file");
    fs::remove_dir(world.path("dir.toml")).unwrap();
    // To open a pipe that nobody writes would wait for ever.
    let made = std::process::Command::new("mkfifo").arg(world.path("pipe.toml")).status().unwrap();
    assert!(made.success());
    assert_eq!(world.error(), "…/capabilities.d/pipe.toml: is not a regular file");
}

#[test]
fn content_that_is_no_text_is_refused_where_it_begins() {
    let world = World::new();
    world.write("greet.toml", b"identifier = 'c'\nx = '\xff'");
    assert_eq!(world.error(), "…/capabilities.d/greet.toml:2:6: from here on it is not UTF-8");
    let long = fs::File::create(world.path("greet.toml")).unwrap();
    long.set_len(MAX_FILE_LEN + 1).unwrap();
    assert_eq!(world.error(), "…/capabilities.d/greet.toml: is larger than 4194304 bytes");
}

#[test]
fn every_unsafe_file_is_named_at_once() {
    let world = World::new();
    world.write("other.toml", GREET);
    world.mode(&world.path("greet.toml"), 0o666);
    world.mode(&world.path("other.toml"), 0o666);
    assert_eq!(world.load().unwrap_err().len(), 2);
}

#[test]
fn permission_files_lie_in_a_directory_of_their_plugin_and_interfaces_in_one_of_theirs() {
    let world = World::new();
    let (permissions, interfaces) =
        (world.root.path().join("permissions.d"), world.root.path().join("interfaces.d"));
    for directory in [&permissions, &interfaces, &permissions.join("fs")] {
        fs::create_dir(directory).unwrap();
        world.mode(directory, 0o755);
    }
    let write = |path: PathBuf, text: &str| {
        fs::write(&path, text).unwrap();
        world.mode(&path, 0o644);
    };
    let set =
        |name: &str, member: &str| format!("[[set]]\nidentifier = '{name}'\npermissions = ['{member}']\n");
    write(permissions.join("own.toml"), &set("greets", "allow-greet"));
    write(permissions.join("fs/flushes.toml"), &set("flushes", "allow-flush"));
    write(
        permissions.join("keyed.json"),
        r#"{"plugin": "core", "set": [{"identifier": "pings", "permissions": ["allow-ping"]}]}"#,
    );
    let interface = r#"{"methods": [{"name": "thumbs.resize"}], "x-invoked": {"plugin": "thumbs"}}"#;
    write(interfaces.join("thumbs.json"), interface);
    world.write(
        "greet.toml",
        "identifier = 'c'\npeers = ['user:ana']\npermissions = ['greets', 'fs:flushes', 'core:pings', 'thumbs:allow-resize']\n",
    );
    let load = || {
        let policy = manifests().into_iter().fold(Policy::new(world.uid, &Users), Policy::manifest);
        load(
            policy,
            &[
                PolicyDirectory::required(world.dir()),
                PolicyDirectory::required(&permissions).of(DirectoryContents::Permissions),
                PolicyDirectory::optional(&interfaces).of(DirectoryContents::Interfaces),
            ],
        )
    };
    let compiled = load().unwrap_or_else(|errors| panic!("{}", lines(&errors)));
    assert_eq!(lines(&compiled.warnings), "");
    for command in ["greet", "fs.flush", "core.ping", "thumbs.resize"] {
        assert!(may(&compiled, &ana(), command), "{command}");
    }

    // They are files of the policy like any other.
    fs::create_dir(permissions.join("fs/deep")).unwrap();
    write(permissions.join("README"), "x");
    write(interfaces.join("a.toml"), "x");
    let skipped = lines(&load().unwrap().warnings).replace(world.root.path().to_str().unwrap(), "…");
    assert_eq!(
        skipped,
        "…/permissions.d/README: skipped: a permission file ends in .toml or .json\n\
         …/permissions.d/fs/deep: skipped: a permission file ends in .toml or .json\n\
         …/interfaces.d/a.toml: skipped: an interface file ends in .json\n"
    );
    fs::create_dir(permissions.join("no plugin")).unwrap();
    world.mode(&permissions.join("fs"), 0o777);
    let refused = lines(&load().unwrap_err()).replace(world.root.path().to_str().unwrap(), "…");
    assert_eq!(
        refused,
        "…/permissions.d/fs: refused: everyone may write it (mode 0777); chmod go-w …/permissions.d/fs\n\
         …/permissions.d/no plugin: a directory of permission files is called by their plugin: ' ' may not stand at byte \
         2 of a name\n"
    );
}
