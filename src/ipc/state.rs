//! Values that commands share, managed by type.

use std::any::{Any, TypeId, type_name};
use std::hash::BuildHasher;
use std::ops::Deref;
use std::sync::OnceLock;

use foldhash::fast::FixedState;

/// Chains of values; programs manage a handful of types.
const CHAINS: usize = 32;

/// Values by type. One can be added at any time, from any thread, and none is ever taken away: that is why a command may
/// borrow it for as long as its call lives, without a lock.
#[derive(Default)]
pub struct StateManager {
    chains: [Link; CHAINS],
}

type Link = OnceLock<Box<Managed>>;

struct Managed {
    key: TypeId,
    value: Box<dyn Any + Send + Sync>,
    next: Link,
}

impl std::fmt::Debug for StateManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateManager").field("values", &self.len()).finish()
    }
}

impl StateManager {
    /// Manages `value`; false if a value of its type is managed already, which stays.
    pub fn manage<T: Send + Sync + 'static>(&self, value: T) -> bool {
        let key = TypeId::of::<T>();
        let mut new = Box::new(Managed { key, value: Box::new(value), next: Link::new() });
        let mut link = self.chain(key);
        loop {
            // Another thread may have added one here in between; then the next link is tried.
            match link.set(new) {
                Ok(()) => return true,
                Err(refused) => new = refused,
            }
            let there = link.get().expect("it refused because it is set");
            if there.key == key {
                return false;
            }
            link = &there.next;
        }
    }

    /// The value of type `T`, if it is managed.
    #[must_use]
    pub fn find<T: Send + Sync + 'static>(&self) -> Option<State<'_, T>> {
        let key = TypeId::of::<T>();
        let mut link = self.chain(key);
        while let Some(there) = link.get() {
            if there.key == key {
                return there.value.downcast_ref().map(State);
            }
            link = &there.next;
        }
        None
    }

    /// How many values are managed.
    fn len(&self) -> usize {
        let chain_len = |chain| std::iter::successors(Link::get(chain), |there| there.next.get()).count();
        self.chains.iter().map(chain_len).sum()
    }

    fn chain(&self, key: TypeId) -> &Link {
        let hash = FixedState::default().hash_one(key);
        &self.chains[usize::try_from(hash % CHAINS as u64).expect("it is below the number of chains")]
    }

    pub(crate) fn missing<T>() -> String {
        format!("no state of type {} is managed; call Builder::manage with one", type_name::<T>())
    }
}

/// A managed value, as an argument of a command, or as [`Manager::state`](crate::Manager::state) gives it.
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

impl<T: PartialEq + Send + Sync + 'static> PartialEq for State<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::StateManager;

    /// As many types as one likes.
    #[derive(Debug, PartialEq)]
    struct Numbered<const N: usize>(usize);

    macro_rules! each {
        ($act:ident: $($n:literal)*) => { $($act!($n);)* };
    }

    #[test]
    fn the_first_value_of_a_type_stays() {
        let state = StateManager::default();
        assert!(state.find::<u8>().is_none());
        assert!(state.manage(1_u8));
        assert!(!state.manage(2_u8));
        assert_eq!(*state.find::<u8>().unwrap(), 1);
    }

    #[test]
    fn a_value_may_be_added_while_others_are_borrowed() {
        let state = StateManager::default();
        macro_rules! add {
            ($n:literal) => {
                assert!(state.manage(Numbered::<$n>($n)))
            };
        }
        macro_rules! find {
            ($n:literal) => {
                assert_eq!(state.find::<Numbered<$n>>().unwrap().inner().0, $n)
            };
        }
        assert!(state.manage(String::from("kept")));
        let kept = state.find::<String>().unwrap();
        // More types than chains, so that some share one.
        each!(add: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39);
        each!(find: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39);
        assert_eq!(kept.as_str(), "kept");
        assert_eq!(format!("{state:?}"), "StateManager { values: 41 }");
    }

    #[test]
    fn of_two_threads_that_manage_one_type_one_succeeds() {
        for _ in 0..200 {
            let state = Arc::new(StateManager::default());
            let added: usize = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..2_u64)
                    .map(|n| {
                        scope.spawn({
                            let state = Arc::clone(&state);
                            move || state.manage(n)
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum()
            });
            assert_eq!(added, 1);
            assert!(state.find::<u64>().is_some());
        }
    }
}
