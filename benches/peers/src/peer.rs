//! A peer that runs, as what measures it sees it.
//!
//! It owns whose turn it is, the check of each reply's length, and what went wrong.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use invoked::ctl::bench::{Amount, BenchError, Carrier, Done, Load, Subject};

use crate::request::Fault;

/// A system with its server.
pub(crate) trait Peer {
    /// One round trip: a request of 64 bytes, and a reply of `size` bytes, one byte of each page of which is touched.
    /// Tells how long the reply is.
    fn call(&mut self, size: u32) -> Result<usize, Fault>;

    /// Many calls, as `load` and `amount` say.
    fn carry(&mut self, load: Load, amount: Amount) -> Result<Done, Fault>;

    /// The processes at the other end.
    fn servers(&self) -> Vec<u32>;

    /// Its turn begins. Only what uses a processor between turns has to know.
    fn wake(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    /// Its turn is over.
    fn rest(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}

type Shared = Rc<RefCell<Box<dyn Peer>>>;

/// Whose turn it is.
#[derive(Clone, Default)]
pub(crate) struct Turn(Rc<RefCell<Option<Shared>>>);

/// A peer under its name.
pub(crate) struct Running {
    name: &'static str,
    mode: &'static str,
    peer: Shared,
    turn: Turn,
    fault: Option<String>,
}

impl Running {
    pub(crate) fn new(name: &'static str, mode: &'static str, peer: Box<dyn Peer>, turn: Turn) -> Self {
        Running { name, mode, peer: Rc::new(RefCell::new(peer)), turn, fault: None }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Whether something went wrong.
    pub(crate) fn has_failed(&self) -> bool {
        self.fault.is_some()
    }

    /// What went wrong. From then on nothing has.
    pub(crate) fn take_fault(&mut self) -> Option<String> {
        self.fault.take()
    }

    fn begin_turn(&self) -> Result<(), Fault> {
        let mut turn = self.turn.0.borrow_mut();
        if turn.as_ref().is_some_and(|current| Rc::ptr_eq(current, &self.peer)) {
            return Ok(());
        }
        if let Some(before) = turn.replace(Rc::clone(&self.peer)) {
            before.borrow_mut().rest()?;
        }
        self.peer.borrow_mut().wake()
    }

    fn failed(&mut self, fault: &Fault) -> BenchError {
        let text = with_sources(fault.as_ref());
        self.fault = Some(text.clone());
        BenchError::Io { what: self.name.to_owned(), source: io::Error::other(text) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut turn = self.turn.0.borrow_mut();
        if turn.as_ref().is_some_and(|current| Rc::ptr_eq(current, &self.peer)) {
            *turn = None;
        }
    }
}

impl Subject for Running {
    fn system(&self) -> &'static str {
        self.name
    }

    fn mode(&self, _size: u32) -> &'static str {
        self.mode
    }

    fn round_trip(&mut self, size: u32) -> Result<(), BenchError> {
        let got = self.begin_turn().and_then(|()| self.peer.borrow_mut().call(size));
        match got {
            Ok(got) if u32::try_from(got) == Ok(size) => Ok(()),
            Ok(got) => Err(self.failed(&wrong(got, size))),
            Err(fault) => Err(self.failed(&fault)),
        }
    }
}

impl Carrier for Running {
    fn system(&self) -> &'static str {
        self.name
    }

    fn mode(&self) -> &'static str {
        self.mode
    }

    fn servers(&self) -> Option<Vec<u32>> {
        Some(self.peer.borrow().servers())
    }

    fn carry(&mut self, load: Load, amount: Amount) -> Result<Done, BenchError> {
        let done = self.begin_turn().and_then(|()| self.peer.borrow_mut().carry(load, amount));
        done.map_err(|fault| self.failed(&fault))
    }
}

/// The fault of a reply that is not as long as it should be.
pub(crate) fn wrong(got: usize, size: u32) -> Fault {
    format!("it answered {got} bytes where {size} were asked for").into()
}

/// An error with what is behind it, on one line.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use invoked::ctl::bench::{Amount, Done, Load, Subject};

    use super::{Peer, Running, Turn, with_sources};
    use crate::request::Fault;

    /// Answers one byte less from 100 on, and nothing at 1000; counts when it is awake.
    struct Odd(Rc<Cell<i32>>);

    impl Peer for Odd {
        fn call(&mut self, size: u32) -> Result<usize, Fault> {
            match size {
                1000 => Err("no such size".into()),
                100.. => Ok(size as usize - 1),
                _ => Ok(size as usize),
            }
        }

        fn carry(&mut self, _load: Load, _amount: Amount) -> Result<Done, Fault> {
            Ok(Done::default())
        }

        fn servers(&self) -> Vec<u32> {
            Vec::new()
        }

        fn wake(&mut self) -> Result<(), Fault> {
            self.0.set(self.0.get() + 1);
            Ok(())
        }

        fn rest(&mut self) -> Result<(), Fault> {
            self.0.set(self.0.get() - 1);
            Ok(())
        }
    }

    fn odd(turn: &Turn) -> (Running, Rc<Cell<i32>>) {
        let awake = Rc::new(Cell::new(0));
        (Running::new("odd", "odd", Box::new(Odd(Rc::clone(&awake))), turn.clone()), awake)
    }

    #[test]
    fn only_one_is_awake() {
        let turn = Turn::default();
        let ((mut one, first), (mut other, second)) = (odd(&turn), odd(&turn));
        one.round_trip(1).expect("answered");
        one.round_trip(2).expect("answered");
        assert_eq!((first.get(), second.get()), (1, 0));
        other.round_trip(1).expect("answered");
        assert_eq!((first.get(), second.get()), (0, 1));
        drop(other);
        one.round_trip(1).expect("answered");
        assert_eq!(first.get(), 1);
    }

    #[test]
    fn what_went_wrong_is_kept() {
        let (mut peer, _) = odd(&Turn::default());
        peer.round_trip(99).expect("answered");
        assert!(!peer.has_failed());
        peer.round_trip(100).expect_err("too short");
        assert!(peer.has_failed());
        let fault = peer.take_fault().expect("it is kept");
        assert!(fault.contains("99 bytes where 100"), "{fault}");
        assert!(!peer.has_failed());
        peer.round_trip(1000).expect_err("refused");
        assert_eq!(peer.take_fault().as_deref(), Some("no such size"));
    }

    #[test]
    fn an_error_is_one_line_with_its_sources() {
        let inner = std::io::Error::other("in\nside");
        assert_eq!(with_sources(&inner), "in side");
    }
}
