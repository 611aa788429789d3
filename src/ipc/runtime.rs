//! What stands in the place of Tauri's windowing runtime.

/// What the types of this crate that are generic in Tauri are generic over.
///
/// There is one implementor, [`Wry`]: a daemon has no windows, so nothing differs by it. The parameter is here so that
/// commands and plugins that are written for any `R: Runtime` compile as they are. The trait can't be implemented
/// elsewhere.
pub trait Runtime: sealed::Sealed + Clone + std::fmt::Debug + Default + Send + Sync + 'static {}

/// The one [`Runtime`], under the name that Tauri's default has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Wry;

impl Runtime for Wry {}

mod sealed {
    pub trait Sealed {}

    impl Sealed for super::Wry {}
}
