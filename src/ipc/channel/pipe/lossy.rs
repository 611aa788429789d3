//! Items that make room for later ones, on a channel that may leave some out.

use invoked_proto::body::Message;
use invoked_proto::registry::{ErrorCode, Overflow};

use super::{End, Pipe, QUEUE_MAX, Refused, State, Waiting, cost};
use crate::sync::{Arc, MutexGuard};

impl Pipe {
    /// Queues an item in the place of older ones where there is no room.
    ///
    /// Where not even the item alone fits what the uid may have, it is left out itself under `drop_oldest`; under `latest`,
    /// whose last item must arrive, the channel ends.
    pub(super) fn push_over(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        message: Message,
    ) -> Result<(), Refused> {
        let cost = cost(&message);
        let mut freed = 0;
        while self.overflow == Overflow::Latest || state.cost - freed + cost > QUEUE_MAX {
            // What the loop has in its hands it has taken, or it gives it back and then there is more to be left out.
            let Some(left_out) = state.leave_out() else { break };
            freed += left_out;
        }
        let fits = loop {
            if self.budget.exchange(freed, cost) {
                break true;
            }
            let Some(left_out) = state.leave_out() else { break false };
            freed += left_out;
        };
        state.cost -= freed;
        if fits {
            state.cost += cost;
            let lagged = std::mem::take(&mut state.lagged);
            state.items.push_back(Waiting { message, lagged });
        } else {
            self.budget.exchange(freed, 0);
            if self.overflow == Overflow::Latest {
                return Err(self.give_up(state));
            }
            state.lagged += 1;
        }
        self.list(state);
        self.budget.tell_room();
        Ok(())
    }

    fn give_up(self: &Arc<Self>, mut state: MutexGuard<'_, State>) -> Refused {
        let code = ErrorCode::ResourceExhausted;
        state.closed = Some(code);
        state.end = Some(End::new(Some(code), "too much waits for this peer".to_owned()));
        self.list(state);
        self.wake();
        self.budget.tell_room();
        Refused::Closed(code)
    }

    /// Leaves out what is too much, once the loop has given items back behind which others were queued; what it cost.
    pub(super) fn trim(&self, state: &mut State) -> u64 {
        let mut freed = 0;
        let is_over = |state: &State, freed: u64| match self.overflow {
            Overflow::Block => false,
            Overflow::DropOldest => state.cost - freed > QUEUE_MAX,
            Overflow::Latest => true,
        };
        while state.items.len() > 1 && is_over(state, freed) {
            freed += state.leave_out().unwrap_or(0);
        }
        freed
    }
}

impl State {
    /// Leaves the oldest item out that waits here, and tells what it cost; that is still charged.
    fn leave_out(&mut self) -> Option<u64> {
        let oldest = self.items.pop_front()?;
        let left_out = oldest.lagged + 1;
        match self.items.front_mut() {
            Some(next) => next.lagged += left_out,
            None => self.lagged += left_out,
        }
        Some(cost(&oldest.message))
    }
}
