//! The scopes of a call's grants, as arguments of its command.

use std::sync::Arc;

use invoked_proto::registry::ErrorCode;
use serde_json::Value;

use super::argument::{CommandArg, CommandItem};
use super::error::{Fault, InvokeError};
use super::runtime::Runtime;
pub use crate::authority::CompiledScope as ScopeValue;
use crate::authority::{
    Grant, Judged, ScopeDenial, ScopeObject, ScopeObjectMatch, ScopeRefusal, ScopeVerdict,
};

/// The scope of the grants that allow this call: what the capability files say behind the command's permissions.
///
/// `T` is what one value is read as: any type that serde reads, or one that judges arguments itself
/// ([`ScopeObjectMatch`]). A command that takes it is *scoped*: capability files may say a scope for it, and one
/// without gets the plugin's default. A scope that says what must not be touched in a way that `T` can't read denies the
/// call before the command runs.
///
/// ```
/// use invoked::authority::PathScope;
/// use invoked::ipc::CommandScope;
///
/// #[invoked::command]
/// fn size(path: std::path::PathBuf, scope: CommandScope<'_, PathScope>) -> Result<u64, String> {
///     if !scope.matches(&path) {
///         return Err("out of scope".to_owned());
///     }
///     std::fs::metadata(path).map(|found| found.len()).map_err(|error| error.to_string())
/// }
/// # let _handler = invoked::generate_handler![size];
/// ```
#[derive(Debug)]
pub struct CommandScope<'a, T: ScopeObject> {
    grant: &'a Arc<Grant>,
    value: &'a Arc<ScopeValue<T>>,
}

/// The scope of this command's plugin for this peer: what permissions without commands say.
#[derive(Debug)]
pub struct GlobalScope<'a, T: ScopeObject> {
    value: &'a Arc<ScopeValue<T>>,
}

impl<'a, T: ScopeObject> CommandScope<'a, T> {
    /// The values of which one must match, unless [`allows_everything`](ScopeValue::allows_everything).
    #[must_use]
    pub fn allows(&self) -> &'a [Arc<T>] {
        self.value.allows()
    }

    /// The values of which none may match, whatever is allowed.
    #[must_use]
    pub fn denies(&self) -> &'a [Arc<T>] {
        self.value.denies()
    }

    /// Both lists.
    #[must_use]
    pub fn value(&self) -> &'a Arc<ScopeValue<T>> {
        self.value
    }
}

impl<T: ScopeObjectMatch> CommandScope<'_, T> {
    /// Whether the command may touch `input`: no deny value, of the command's grants or of its plugin's, matches it, and
    /// some grant allows it.
    #[must_use]
    pub fn matches(&self, input: &T::Input) -> bool {
        self.check(input).is_allowed()
    }

    /// Whether the command may touch `input`, and if not, why. The reason is for the operator; it must not reach the peer.
    pub fn check(&self, input: &T::Input) -> ScopeVerdict {
        self.grant.check::<T>(input)
    }

    /// Refuses the call if the command may not touch `input`. `shown` is what the refusal calls it, an argument or what it
    /// stands for; the operator's log, and `core.explain`, tell the reason and what would allow it.
    ///
    /// ```
    /// use invoked::authority::PrefixScope;
    /// use invoked::ipc::{CommandScope, Fault};
    ///
    /// #[invoked::command]
    /// fn open(url: String, scope: CommandScope<'_, PrefixScope>) -> Result<(), Fault> {
    ///     scope.require(url.as_str(), url.as_str())?;
    ///     Ok(())
    /// }
    /// # let _handler = invoked::generate_handler![open];
    /// ```
    ///
    /// # Errors
    /// `permission_denied`.
    pub fn require(&self, input: &T::Input, shown: impl Into<Value>) -> Result<(), Fault> {
        match self.check(input) {
            ScopeVerdict::Allowed => Ok(()),
            ScopeVerdict::Denied(denial) => Err(refusal(self.grant, denial, &shown.into())),
        }
    }
}

impl<'a, T: ScopeObject> GlobalScope<'a, T> {
    /// The values of which one must match.
    #[must_use]
    pub fn allows(&self) -> &'a [Arc<T>] {
        self.value.allows()
    }

    /// The values of which none may match.
    #[must_use]
    pub fn denies(&self) -> &'a [Arc<T>] {
        self.value.denies()
    }

    /// Both lists.
    #[must_use]
    pub fn value(&self) -> &'a Arc<ScopeValue<T>> {
        self.value
    }
}

impl<T: ScopeObjectMatch> GlobalScope<'_, T> {
    /// Whether this scope alone allows `input`.
    #[must_use]
    pub fn matches(&self, input: &T::Input) -> bool {
        self.value.check(input).is_allowed()
    }
}

impl<'de, R: Runtime, T: ScopeObject> CommandArg<'de, R> for CommandScope<'de, T> {
    fn from_command(item: CommandItem<'de, R>) -> Result<Self, InvokeError> {
        let grant = item.message.grant();
        if !grant.is_scoped() {
            // Under an alias the macro does not see it, and whatever a file says of scopes would be passed over.
            let text = format!(
                "{} takes a CommandScope and is not registered as scoped; write the type by its name",
                item.message.name()
            );
            return Err(Fault::refusal(ErrorCode::Internal, text).into());
        }
        let value = grant.command_scope::<T>().map_err(|denial| unreadable(&item, &denial))?;
        Ok(CommandScope { grant, value })
    }
}

impl<'de, R: Runtime, T: ScopeObject> CommandArg<'de, R> for GlobalScope<'de, T> {
    fn from_command(item: CommandItem<'de, R>) -> Result<Self, InvokeError> {
        let value = item.message.grant().global_scope::<T>().map_err(|denial| unreadable(&item, &denial))?;
        Ok(GlobalScope { value })
    }
}

/// A deny value has no meaning to the command, so it denies everything.
fn unreadable<R: Runtime>(item: &CommandItem<'_, R>, denial: &ScopeDenial) -> Fault {
    refusal(item.message.grant(), denial.clone(), &Value::Null)
}

fn refusal(grant: &Arc<Grant>, denial: ScopeDenial, shown: &Value) -> Fault {
    let command = grant.command().as_str();
    let text = match shown {
        Value::Null => format!("this peer may not call {command}"),
        shown => format!("this peer may not call {command} with {shown}"),
    };
    let refusal = ScopeRefusal { grant: Arc::clone(grant), denial, argument: Judged::new(shown) };
    Fault::scope_refusal(refusal, text)
}
