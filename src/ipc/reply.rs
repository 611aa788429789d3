//! What the code that `#[command]` writes calls: how an argument comes in and how an output becomes an outcome.
//!
//! Not for people: names here change without notice. The macro knows no types, so this module lets the compiler choose
//! by them. Each method is offered in several places; method lookup takes the first that fits: an inherent one, then a
//! trait's on [`Probe`], then a trait's on `&Probe`. (A blanket impl could not: `Vec<u8>` is `Serialize` too, and an
//! alias of `Result` doesn't look like one.)

use std::marker::PhantomData;

use bytes::Bytes;
use serde::Serialize;

use super::argument::{CommandArg, CommandItem};
use super::error::{CallError, Fault, InvokeError};
use super::invoke::InvokeMessage;
use super::response::{IpcResponse, Outcome, Response};
use super::runtime::Runtime;
use crate::app::{HasWindows, Webview, WebviewWindow, Window};

/// Takes the argument `key` of the command `name` from the call.
///
/// # Errors
/// As [`CommandArg::from_command`].
pub fn argument<'a, T: CommandArg<'a>>(
    name: &'a str,
    key: &'a str,
    message: &'a InvokeMessage,
) -> Result<T, CallError> {
    T::from_command(CommandItem { name, key, message }).map_err(CallError::from)
}

/// Stands for a type in method lookup.
#[derive(Debug)]
pub struct Probe<T>(PhantomData<fn() -> T>);

/// The error of a command that returns no `Result`.
#[derive(Debug)]
pub enum Never {}

impl<T> Probe<T> {
    /// The probe of a value's type.
    #[must_use]
    pub fn of(_: &T) -> Self {
        Probe(PhantomData)
    }

    /// The probe of a type.
    #[must_use]
    pub fn of_type() -> Self {
        Probe(PhantomData)
    }
}

// Windows: a command that takes one is told what to take instead. The macro asks for types of these names only; a type
// of the user's with one of them is an argument like any other.

macro_rules! absent {
    ($($name:ident)*) => {$(
        impl<R: Runtime> Probe<$name<R>> {
            /// Not here.
            pub fn is_here(&self)
            where
                $name<R>: HasWindows,
            {
            }
        }
    )*};
}

absent!(Window Webview WebviewWindow);

/// A type that has a window's name and is none.
pub trait AsHere {
    /// It is.
    fn is_here(&self) {}
}

impl<T> AsHere for Probe<T> {}

// Outputs: a `Result` by any name stays one, everything else is a value.

impl<T, E> Probe<Result<T, E>> {
    /// The result as it is.
    ///
    /// # Errors
    /// The result's.
    pub fn split(&self, output: Result<T, E>) -> Result<T, E> {
        output
    }
}

/// An output that is no `Result`.
pub trait AsOutput {
    /// Its type.
    type Output;
    /// The value, as a result.
    ///
    /// # Errors
    /// Never.
    fn split(&self, output: Self::Output) -> Result<Self::Output, Never>;
}

impl<T> AsOutput for Probe<T> {
    type Output = T;
    fn split(&self, output: T) -> Result<T, Never> {
        Ok(output)
    }
}

// Values: bytes travel raw, what is `Serialize` as JSON (also if it borrows), the rest says for itself.

impl Probe<Vec<u8>> {
    /// A raw reply.
    ///
    /// # Errors
    /// Never.
    pub fn reply(&self, value: Vec<u8>) -> Outcome {
        Ok(Response::new(value))
    }
}

impl Probe<Bytes> {
    /// A raw reply.
    ///
    /// # Errors
    /// Never.
    pub fn reply(&self, value: Bytes) -> Outcome {
        Ok(Response::new(value))
    }
}

impl<'b> Probe<&'b [u8]> {
    /// A raw reply, copied: a slice may end with the call.
    ///
    /// # Errors
    /// Never.
    pub fn reply(&self, value: &'b [u8]) -> Outcome {
        Ok(Response::new(Bytes::copy_from_slice(value)))
    }
}

/// A value that is `Serialize`.
pub trait AsJson {
    /// Its type.
    type Value;
    /// The value as JSON.
    ///
    /// # Errors
    /// `internal` if it can not be written.
    fn reply(&self, value: Self::Value) -> Outcome;
}

impl<T: Serialize> AsJson for Probe<T> {
    type Value = T;
    fn reply(&self, value: T) -> Outcome {
        Response::json(&value).map_err(CallError::Framework)
    }
}

/// Any other value.
pub trait AsResponse {
    /// Its type.
    type Value;
    /// The value as it says for itself. The bound stands on the method, so that a type without it is not passed over
    /// in lookup but refused, with [`IpcResponse`]'s message.
    ///
    /// # Errors
    /// The value's own.
    fn reply(&self, value: Self::Value) -> Outcome
    where
        Self::Value: IpcResponse;
}

impl<T> AsResponse for &Probe<T> {
    type Value = T;
    fn reply(&self, value: T) -> Outcome
    where
        T: IpcResponse,
    {
        value.into_response().map_err(CallError::Framework)
    }
}

// Errors: those of the framework stay so, bytes are raw, the rest is the application's.

impl Probe<Never> {
    /// Nothing: there is no such value.
    pub fn error(&self, error: Never) -> CallError {
        match error {}
    }
}

impl Probe<CallError> {
    /// The error as it is.
    pub fn error(&self, error: CallError) -> CallError {
        error
    }
}

impl Probe<Fault> {
    /// The framework's error.
    pub fn error(&self, error: Fault) -> CallError {
        CallError::Framework(error)
    }
}

impl Probe<Vec<u8>> {
    /// An application's error with a raw body.
    pub fn error(&self, error: Vec<u8>) -> CallError {
        InvokeError::raw(error).into()
    }
}

impl Probe<Bytes> {
    /// An application's error with a raw body.
    pub fn error(&self, error: Bytes) -> CallError {
        InvokeError::raw(error).into()
    }
}

/// What may stand as the error of a command: what is `Serialize`, and what has a conversion to [`InvokeError`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` can not be the error of a command",
    label = "the command's error is a `{Self}`",
    note = "derive `serde::Serialize` for it, or write `impl From<{Self}> for invoked::ipc::InvokeError`",
    note = "for an error of another crate, `.map_err(|error| error.to_string())` sends its text"
)]
pub trait CommandError {
    /// The error as the application's.
    fn into_error(self) -> InvokeError;
}

#[diagnostic::do_not_recommend]
impl<E: Into<InvokeError>> CommandError for E {
    fn into_error(self) -> InvokeError {
        self.into()
    }
}

/// An error of the application's.
pub trait AsError {
    /// Its type.
    type Error;
    /// The error as the application's.
    fn error(&self, error: Self::Error) -> CallError
    where
        Self::Error: CommandError;
}

impl<E> AsError for Probe<E> {
    type Error = E;
    fn error(&self, error: E) -> CallError
    where
        E: CommandError,
    {
        error.into_error().into()
    }
}
