//! A daemon of one's own: a notebook for the users of one machine.
//!
//! The program has the flags, signals and logs of `invoked`, and an address of its own. With
//! `cargo run --example host -- --dev` in one terminal, `invokectl --app org.example.notes list` in another tells what
//! it can do, and `cargo run --example blocking_caller` calls it.

use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};

use invoked::ipc::{Peer, State};
use invoked::{command, generate_handler};
use serde::Serialize;
use tokio::sync::watch;

fn main() -> ExitCode {
    invoked::Builder::new("org.example.notes")
        .manage(Notebook::default())
        .invoke_handler(generate_handler![add, count, export, wait_for])
        .run()
}

/// A note and who wrote it.
#[derive(Debug, Clone, Serialize)]
struct Note {
    title: String,
    text: String,
    author: u32,
}

/// What the commands share.
#[derive(Debug, Default)]
struct Notebook {
    notes: Mutex<Vec<Note>>,
    changes: watch::Sender<()>,
}

impl Notebook {
    fn notes(&self) -> MutexGuard<'_, Vec<Note>> {
        // A command that panicked has answered for itself; the notes are as good as before.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What callers get when a command refuses: `{"kind":"taken","title":"milk"}`.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum NoteError {
    Taken { title: String },
    Empty,
}

/// Adds a note and tells how many there are.
#[command]
fn add(title: String, text: String, peer: &Peer, notebook: State<'_, Notebook>) -> Result<usize, NoteError> {
    if title.is_empty() {
        return Err(NoteError::Empty);
    }
    let count = {
        let mut notes = notebook.notes();
        if notes.iter().any(|note| note.title == title) {
            return Err(NoteError::Taken { title });
        }
        notes.push(Note { title, text, author: peer.uid });
        notes.len()
    };
    notebook.changes.send_replace(());
    Ok(count)
}

/// Tells how many notes there are.
#[command(inline)]
fn count(notebook: State<'_, Notebook>) -> usize {
    notebook.notes().len()
}

/// All notes as text; bytes travel raw.
#[command]
fn export(notebook: State<'_, Notebook>) -> Vec<u8> {
    let notes = notebook.notes();
    notes.iter().flat_map(|note| format!("{}: {}\n", note.title, note.text).into_bytes()).collect()
}

/// Waits until there is a note of this title, for as long as the caller does.
#[command]
async fn wait_for(title: &str, notebook: State<'_, Notebook>) -> Result<Note, NoteError> {
    let mut changes = notebook.changes.subscribe();
    loop {
        let found = notebook.notes().iter().find(|note| note.title == title).cloned();
        if let Some(note) = found {
            return Ok(note);
        }
        // Its sender is managed by this very daemon, so it is there as long as the command runs.
        drop(changes.changed().await);
    }
}

#[cfg(test)]
mod tests {
    use invoked::authority::PeerFacts;
    use invoked::generate_handler;
    use invoked::ipc::ErrorCode;
    use invoked::testing::{InvokeRequest, MockApp, assert_ipc_fault, assert_ipc_response, mock_builder};

    use super::*;

    #[test]
    fn only_operators_may_count() -> Result<(), Box<dyn std::error::Error>> {
        let notes = mock_builder().manage(Notebook::default()).invoke_handler(generate_handler![add, count]);
        let app = MockApp::new(notes)?;
        app.add_capability("identifier = 'ops'\npeers = ['gid:20']\npermissions = ['allow-count']")?;
        let operator = app.peer(PeerFacts::new(1000, 1000, [20]));
        assert_ipc_response(&operator, InvokeRequest::new("count"), Ok(0));
        assert_ipc_fault(&app.user(1000), InvokeRequest::new("count"), ErrorCode::PermissionDenied);
        Ok(())
    }
}
