//! What a daemon says to a provider, and passes on between it and a caller (SPEC.md, "Grants" and "Flow control").

use super::{Connection, Event, Role, State};
use crate::coding::{self, Record};
use crate::error::{MisuseError, RecordError};
use crate::metadata::{Grant, Ungrant};
use crate::registry::{FrameKind, features, limits};

impl<A> Connection<A> {
    /// Whether the daemon may call the other side.
    #[must_use]
    pub fn may_provide(&self) -> bool {
        self.features() & features::PROVIDE != 0
    }

    /// Whether this side is a client that the daemon may call.
    pub(super) fn is_provider(&self) -> bool {
        self.role == Role::Client && self.may_provide()
    }

    /// Gives a provider a grant. It is sent before any call that is queued later.
    ///
    /// # Errors
    /// [`MisuseError::NotOpen`] unless this is a daemon's connection to a client that it may call; [`MisuseError::Record`] if
    /// its scopes do not fit a frame.
    pub fn grant(&mut self, grant: &Grant) -> Result<(), MisuseError> {
        self.check_provided()?;
        grant.validate()?;
        if coding::encoded_len(grant) > limits::MAX_METADATA {
            return Err(MisuseError::Record(RecordError::LimitExceeded));
        }
        self.send.control(FrameKind::Grant, 0, 0, Some(grant));
        Ok(())
    }

    /// Takes a grant back. It is sent before calls that are queued already: so not while one that names it has not ended.
    ///
    /// # Errors
    /// [`MisuseError::NotOpen`] as for [`grant`](Self::grant).
    pub fn ungrant(&mut self, grant: u64) -> Result<(), MisuseError> {
        self.check_provided()?;
        self.send.control(FrameKind::Ungrant, 0, 0, Some(&Ungrant { grant, ..Ungrant::default() }));
        Ok(())
    }

    fn check_provided(&self) -> Result<(), MisuseError> {
        let is_open = matches!(self.state, State::Open | State::Draining);
        let is_provider = self.role == Role::Daemon && self.may_provide();
        if is_open && is_provider { Ok(()) } else { Err(MisuseError::NotOpen) }
    }

    /// Lets the owner be told of each credit for the channels of a stream on which this side sends, by
    /// [`Event::CreditCame`], so that it can pass the credit on to whom the items come from. What came before is told now.
    pub fn relay_channels(&mut self, stream: u64) {
        for channel in self.sending_channels(stream) {
            let bytes = self.send.relay_channel((stream, channel));
            if bytes > 0 {
                self.events.push_back(Event::CreditCame { stream, channel, bytes });
            }
        }
    }

    /// Gives the sender of a channel credit that the final receiver of its items gave, in place of what
    /// [`give_credit`](Self::give_credit) would give back.
    pub fn pass_credit(&mut self, stream: u64, channel: u32, bytes: u64) {
        if let Some(said) = self.pass_to_window((stream, channel), bytes) {
            self.say_credit(stream, channel, said);
        }
    }
}
