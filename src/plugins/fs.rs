//! `fs`: files that a scope allows, read and written with the daemon's rights.
//!
//! It owns the commands and what their callers are told. A scope decides on the path of what was found, links resolved
//! (`located`), and whether something exists is told only where the scope would let it be used.

use std::path::Path;
use std::sync::Arc;

use invoked_proto::registry::ErrorCode;
use serde_json::{Map, Value};

use self::failure::FileError;
use self::located::{Located, Missing};
use crate::authority::{
    InputError, Judged, PathScope, PermissionSet, ScopeDefault, ScopeDenial, ScopeKind, ScopeObjectMatch,
    ScopeRefusal, ScopeVerdict,
};
use crate::ipc::{
    Argument, CallError, Command, CommandArg, CommandItem, Fault, InvokeMessage, ScopeQuestion,
};
use crate::plugin::{self, Plugin};

mod failure;
mod located;
mod read;
#[cfg(feature = "watch")]
mod watch;
mod write;

/// The longest path that the system takes, in bytes, without the NUL byte at its end.
const PATH_MAX: usize = 4095;

/// The plugin.
pub fn plugin() -> Plugin {
    let path = Argument { key: "path", kind: "String", optional: false };
    let optional = |key, kind| Argument { key, kind, optional: true };
    #[cfg_attr(not(feature = "watch"), allow(unused_mut))] // one is added below
    let mut commands = vec![
            Command::blocking("read_file", read::read_file)
                .docs("Answers with the bytes of a regular file.\n\nAll of them, or `len` bytes from `offset` on. `path` is absolute. The scopes of the grant decide on the path with its links resolved.")
                .argument(path.clone())
                .argument(optional("offset", "u64"))
                .argument(optional("len", "u64"))
                .asks_scopes(question),
            Command::blocking("read_dir", read::read_dir)
                .docs("Lists a directory: name and kind (file, directory, link, other) of each entry.\n\nThe scopes of the grant decide on the directory, and on each entry: one whose path they don't allow is not listed.")
                .argument(path.clone())
                .asks_scopes(question),
            Command::blocking("metadata", read::metadata)
                .docs("Tells about a file or directory: kind, len, modified, readonly, mode.\n\n`len` is in bytes, `modified` in milliseconds since 1970, `mode` the permission bits as a number. Links are followed.")
                .argument(path.clone())
                .asks_scopes(question),
            Command::blocking("write_file", write::write_file)
                .docs("Writes a regular file, which is created if it is not there, and replaces what was in it.\n\n`contents` is an attachment, or text. With `append` it is added at the end. `new` refuses a file that is there, `create:=false` one that isn't. `mode` is for a file that is created (mode=0600). `atomic` writes beside the file and renames: readers see the old or the new file, whole.\n\nOr a raw body, with the headers `path` (percent-encoded) and `options` (a JSON object), as Tauri's front end sends it.")
                .argument(path)
                .argument(Argument { key: "contents", kind: "Raw", optional: false })
                .argument(optional("append", "bool"))
                .argument(optional("create", "bool"))
                .argument(optional("new", "bool"))
                .argument(optional("mode", "String"))
                .argument(optional("atomic", "bool"))
                .asks_scopes(question),
    ];
    #[cfg_attr(not(feature = "watch"), allow(unused_mut))]
    let mut reading = vec!["allow-read-file", "allow-read-dir", "allow-metadata"];
    #[cfg(feature = "watch")]
    {
        commands.push(watch_command());
        reading.push("allow-watch");
    }
    plugin::Builder::new("fs")
        .invoke_handler(commands)
        .set(set("read", "Reading files and directories; which ones, the scope says.", &reading))
        .set(set(
            "write",
            "Creating files and replacing what is in them; which ones, the scope says. It does not include reading.",
            &["allow-write-file"],
        ))
        .default_permissions(&["read"])
        .scope(ScopeKind::of::<PathScope>(), ScopeDefault::Nothing)
        .build()
}

#[cfg(feature = "watch")]
fn watch_command() -> Command {
    let watches = std::sync::Arc::<watch::Watches>::default();
    Command::blocking("watch", move |message| watch::watch(&watches, message))
        .docs("Tells on the channel `events` what changes at `path`, or in it if it is a directory.\n\nIt is answered at once; the channel lives on until its reader leaves. Each change is {kind, path}, the kinds are created, modified, removed, renamed (with `from`) and rescan, which says that changes were lost. The scopes of the grant decide on `path`, and on each path that is told.")
        .argument(Argument { key: "path", kind: "String", optional: false })
        .argument(Argument { key: "events", kind: "Subscription", optional: false })
        .asks_scopes(question)
}

fn set(identifier: &str, description: &str, permissions: &[&str]) -> PermissionSet {
    PermissionSet {
        identifier: identifier.to_owned(),
        description: description.to_owned(),
        permissions: permissions.iter().map(|&permission| permission.to_owned()).collect(),
    }
}

/// A path whose real place can not be said: nothing may be told about it.
const NOWHERE: InputError = InputError("leads where no rule can be asked");

/// What a call with these arguments asks the scopes about.
fn question(arguments: &Map<String, Value>) -> Result<ScopeQuestion, String> {
    let path = arguments.get("path").and_then(Value::as_str).ok_or("`path` is missing, or no string")?;
    if !Path::new(path).is_absolute() {
        return Err(format!("`path` is absolute, and {path:?} is not"));
    }
    let real = match located::locate(Path::new(path)) {
        Ok(located) => Some(located.real),
        Err(missing) => missing.real,
    };
    Ok(match real {
        Some(real) => {
            let text = Value::from(real.to_string_lossy().into_owned());
            match PathScope::admit(&real) {
                Ok(()) => ScopeQuestion::Judge(text),
                Err(error) => ScopeQuestion::Refuse(text, error),
            }
        }
        None => ScopeQuestion::Refuse(Value::from(path), NOWHERE),
    })
}

/// A call of one of the commands here, with the path that it asks for.
#[derive(Clone, Copy)]
struct Asked<'a> {
    message: &'a InvokeMessage,
    path: &'a str,
}

/// Takes the argument `key`, after a check that the call has none but those in `known`: an option that is overlooked may
/// be what was to keep a file from harm.
fn argument<'a, T: CommandArg<'a>>(
    message: &'a InvokeMessage,
    key: &'static str,
    known: &[&str],
) -> Result<T, CallError> {
    if let Some(unknown) = message.argument_names()?.find(|name| !known.contains(name)) {
        let takes = known.join(", ");
        let text = format!("{} has no argument `{unknown}`; it takes {takes}", message.name());
        return Err(Fault::refusal(ErrorCode::InvalidArgument, text).into());
    }
    Ok(T::from_command(CommandItem { name: "fs", key, message })?)
}

impl Asked<'_> {
    /// Finds what is there and may be used; `Err` is the answer to the call otherwise.
    fn locate(&self) -> Result<Located, CallError> {
        self.try_locate()?.map_err(|error| self.failed(&error))
    }

    /// The same, with the error of the file system apart, if it may be told.
    fn try_locate(&self) -> Result<Result<Located, std::io::Error>, CallError> {
        self.check_absolute()?;
        match located::locate(Path::new(self.path)) {
            Ok(located) => self.check(&located.real).map(|()| Ok(located)),
            Err(missing) => self.may_tell(missing).map(Err),
        }
    }

    /// The error, if the scope would allow what is missing.
    fn may_tell(&self, missing: Missing) -> Result<std::io::Error, CallError> {
        match &missing.real {
            Some(real) => self.check(real)?,
            None => return Err(self.refuse(ScopeDenial::Input(NOWHERE), Path::new(self.path))),
        }
        Ok(missing.error)
    }

    fn check_absolute(&self) -> Result<(), CallError> {
        let text = if self.path.contains('\0') {
            "has a NUL byte"
        } else if !Path::new(self.path).is_absolute() {
            "is not: in a shell, $PWD/FILE is"
        } else if self.path.len() > PATH_MAX {
            // Looked for part by part, it would keep a thread busy for as long as the peer likes.
            let text = format!("{}: `path` is longer than {PATH_MAX} bytes", self.message.command());
            return Err(Fault::refusal(ErrorCode::InvalidArgument, text).into());
        } else {
            return Ok(());
        };
        // No scope has anything to say about it, and nothing is told by it.
        let text = format!("{}: `path` is absolute, and {:?} {text}", self.message.name(), self.path);
        Err(Fault::refusal(ErrorCode::InvalidArgument, text).into())
    }

    /// Asks the grant's scopes; a refusal is explained to the operator.
    fn check(&self, real: &Path) -> Result<(), CallError> {
        match self.message.grant().check::<PathScope>(real) {
            ScopeVerdict::Allowed => Ok(()),
            ScopeVerdict::Denied(denial) => Err(self.refuse(denial, real)),
        }
    }

    fn refuse(&self, denial: ScopeDenial, real: &Path) -> CallError {
        let grant = Arc::clone(self.message.grant());
        let argument = Judged::new(&Value::from(real.to_string_lossy().into_owned()));
        let text = format!("this peer may not call {} with path {:?}", self.message.name(), self.path);
        CallError::Framework(Fault::scope_refusal(ScopeRefusal { grant, denial, argument }, text))
    }

    fn failed(&self, error: &std::io::Error) -> CallError {
        FileError::io(self.path, error)
    }
}
