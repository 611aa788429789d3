//! Names of Tauri's that can't be here: a daemon has no windows and no web views.
//!
//! They exist so that the compiler can say what to write instead. A command answers its caller, and sends to it while it
//! runs, by a `Channel` argument; nobody else is there to be sent to.

use std::marker::PhantomData;

use serde::Serialize;

use crate::ipc::{Runtime, Wry};

/// What no type is: something with windows.
#[diagnostic::on_unimplemented(
    message = "a daemon has no windows and no web views",
    label = "there is no `{Self}` here",
    note = "to send to the caller while the command runs, take an argument `channel: ipc::Channel<T>` and `send`",
    note = "for state and paths, take an `AppHandle`; for who calls, a `Peer`"
)]
pub trait HasWindows {}

/// What no type is: something that events can be emitted to.
#[diagnostic::on_unimplemented(
    message = "a daemon has no event bus: nobody listens but the caller of a command",
    label = "events can't be sent from here",
    note = "to send to the caller while the command runs, take an argument `channel: ipc::Channel<T>` and `send`"
)]
pub trait HasEvents {}

macro_rules! absent {
    ($($name:ident)*) => {$(
        /// Not here: a daemon has no windows. Send to the caller by a `Channel`; take state and paths from an
        /// [`AppHandle`](crate::AppHandle), and who calls from a [`Peer`](crate::ipc::Peer).
        ///
        /// There are no values of this type, and a command that takes one does not compile.
        #[derive(Debug, Clone)]
        pub struct $name<R: Runtime = Wry> {
            _never: std::convert::Infallible,
            runtime: PhantomData<R>,
        }
    )*};
}

absent!(Window Webview WebviewWindow);

/// Not here: nobody listens but the caller of a command. Send to it by a `Channel`.
pub trait Emitter<R: Runtime = Wry> {
    /// Not here: send by a `Channel`.
    ///
    /// # Errors
    /// Can't be called.
    fn emit<S: Serialize + Clone>(&self, _event: &str, _payload: S) -> crate::Result<()>
    where
        Self: HasEvents;

    /// Not here: send by a `Channel`.
    ///
    /// # Errors
    /// Can't be called.
    fn emit_to<T, S: Serialize + Clone>(&self, _target: T, _event: &str, _payload: S) -> crate::Result<()>
    where
        Self: HasEvents;

    /// Not here: send by a `Channel`.
    ///
    /// # Errors
    /// Can't be called.
    fn emit_filter<S: Serialize + Clone, F>(
        &self,
        _event: &str,
        _payload: S,
        _filter: F,
    ) -> crate::Result<()>
    where
        Self: HasEvents;
}

/// Not here: callers speak to a daemon by commands only.
pub trait Listener<R: Runtime = Wry> {
    /// Not here: callers speak to a daemon by commands only.
    fn listen<F>(&self, _event: &str, _handler: F)
    where
        Self: HasEvents;

    /// Not here: callers speak to a daemon by commands only.
    fn once<F>(&self, _event: &str, _handler: F)
    where
        Self: HasEvents;
}

macro_rules! without_events {
    ($($name:ident)*) => {$(
        impl<R: Runtime> Emitter<R> for $name<R> {
            fn emit<S: Serialize + Clone>(&self, _event: &str, _payload: S) -> crate::Result<()>
            where
                Self: HasEvents,
            {
                Ok(())
            }

            fn emit_to<T, S: Serialize + Clone>(&self, _: T, _event: &str, _payload: S) -> crate::Result<()>
            where
                Self: HasEvents,
            {
                Ok(())
            }

            fn emit_filter<S: Serialize + Clone, F>(&self, _event: &str, _: S, _: F) -> crate::Result<()>
            where
                Self: HasEvents,
            {
                Ok(())
            }
        }

        impl<R: Runtime> Listener<R> for $name<R> {
            fn listen<F>(&self, _event: &str, _handler: F)
            where
                Self: HasEvents,
            {
            }

            fn once<F>(&self, _event: &str, _handler: F)
            where
                Self: HasEvents,
            {
            }
        }
    )*};
}

use crate::app::{App, AppHandle};

without_events!(App AppHandle Window Webview WebviewWindow);
