//! Who is told of each call as it ends.

use std::cell::RefCell;
use std::fmt;

use super::Hub;
use crate::broker::CallRecord;

/// Monitors at once.
const MONITORS_MAX: usize = 16;

/// Takes a record; false once it wants no more. It is called on the loop and must not wait.
pub(crate) type Monitor = Box<dyn FnMut(&CallRecord) -> bool + Send>;

/// All of them.
#[derive(Default)]
pub(super) struct Monitors(RefCell<Vec<Monitor>>);

impl fmt::Debug for Monitors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} monitors", self.0.borrow().len())
    }
}

impl Hub {
    /// Tells each call to `monitor` from now on; false if there are too many. While there is none, calls are not recorded.
    pub(crate) fn monitor(&self, monitor: Monitor) -> bool {
        let mut monitors = self.monitors.0.borrow_mut();
        let has_room = monitors.len() < MONITORS_MAX;
        if has_room {
            monitors.push(monitor);
            self.broker.borrow_mut().monitor(true);
        }
        has_room
    }

    /// Monitors that have left are noticed here, at the first call after that.
    pub(super) fn tell_monitors(&self, record: &CallRecord) {
        let mut monitors = self.monitors.0.borrow_mut();
        monitors.retain_mut(|monitor| monitor(record));
        if monitors.is_empty() {
            self.broker.borrow_mut().monitor(false);
        }
    }
}
