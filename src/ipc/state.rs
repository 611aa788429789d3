//! Values that commands share, managed by type.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::ops::Deref;

/// Values by type; filled before the daemon starts, read by every command.
#[derive(Default)]
pub struct StateManager {
    values: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
}

impl std::fmt::Debug for StateManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateManager").field("values", &self.values.len()).finish()
    }
}

impl StateManager {
    /// Manages `value`; false if a value of its type is managed already, which stays.
    pub fn manage<T: Send + Sync + 'static>(&mut self, value: T) -> bool {
        let slot = self.values.entry(TypeId::of::<T>());
        let vacant = matches!(slot, std::collections::hash_map::Entry::Vacant(_));
        slot.or_insert_with(|| Box::new(value));
        vacant
    }

    /// The value of type `T`, if it is managed.
    #[must_use]
    pub fn find<T: Send + Sync + 'static>(&self) -> Option<State<'_, T>> {
        let value = self.values.get(&TypeId::of::<T>())?;
        value.downcast_ref().map(State)
    }

    pub(crate) fn missing<T>() -> String {
        format!("no state of type {} is managed; call Builder::manage with one", type_name::<T>())
    }
}

/// A managed value, as an argument of a command.
#[derive(Debug)]
pub struct State<'r, T: Send + Sync + 'static>(&'r T);

impl<'r, T: Send + Sync + 'static> State<'r, T> {
    /// The value, for as long as the call lives.
    #[must_use]
    pub fn inner(&self) -> &'r T {
        self.0
    }
}

impl<T: Send + Sync + 'static> Deref for State<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0
    }
}

impl<T: Send + Sync + 'static> Clone for State<'_, T> {
    fn clone(&self) -> Self {
        State(self.0)
    }
}
