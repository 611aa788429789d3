//! Why a process provides nothing, or no more.

use invoked_proto::registry::ErrorCode;

use crate::error::BuildError;

/// Why a process provides nothing, or no more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProvideError {
    /// What is wrong with the commands, or what the machine refused.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The daemon can't be reached, or is not one to be trusted.
    #[error("{message}")]
    Connect {
        /// Where to, what is there, and what to do.
        message: String,
        /// Whether it may pass by itself.
        may_pass: bool,
    },
    /// The daemon does not take the connection.
    #[error("the daemon refuses the connection: {message}")]
    Refused {
        /// The code.
        code: ErrorCode,
        /// Why.
        message: String,
    },
    /// The daemon of this address is of a version without providers.
    #[error("the daemon takes no providers: it is of an older version")]
    Unsupported,
    /// The daemon does not let this process provide a plugin.
    #[error("can not provide {plugin}: {}: {message}{}", .code.name(), hint(*.code, plugin, decision.as_deref()))]
    Registration {
        /// The plugin.
        plugin: String,
        /// The code: `permission_denied`, `already_exists`, `invalid_argument` for an interface with errors.
        code: ErrorCode,
        /// Why.
        message: String,
        /// The id of the denial, by which the operator learns more.
        decision: Option<String>,
    },
    /// The connection ended, and it is not made again.
    #[error("the connection to the daemon was lost")]
    Lost,
}

/// What to do about it.
fn hint(code: ErrorCode, plugin: &str, decision: Option<&str>) -> String {
    match code {
        ErrorCode::PermissionDenied => {
            let explain = decision.map(|id| format!("; invokectl explain {id} tells the operator more"));
            format!(
                "\n  hint: a capability that matches this process must say provide = [{plugin:?}]{}",
                explain.unwrap_or_default()
            )
        }
        ErrorCode::AlreadyExists => {
            "\n  hint: another process provides it; to take it over, ask for that (take_over, --take-over)"
                .to_owned()
        }
        _ => String::new(),
    }
}

impl ProvideError {
    /// The code under which a client would see it; `None` if it is this machine's or this program's.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ProvideError::Refused { code, .. } | ProvideError::Registration { code, .. } => Some(*code),
            ProvideError::Connect { .. } | ProvideError::Lost => Some(ErrorCode::Unavailable),
            ProvideError::Unsupported => Some(ErrorCode::Unimplemented),
            ProvideError::Build(_) => None,
        }
    }

    /// Whether trying again later may help, without anybody changing anything.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            ProvideError::Connect { may_pass, .. } => *may_pass,
            ProvideError::Refused { code, .. } | ProvideError::Registration { code, .. } => {
                code.is_retryable()
            }
            ProvideError::Lost => true,
            ProvideError::Build(_) | ProvideError::Unsupported => false,
        }
    }
}
