//! The memory that this process's allocator keeps after it was freed.
//!
//! What large messages took must not stay for ever. glibc keeps it: each chunk of up to 32 MiB that is freed raises the size
//! from which on memory is mapped for itself and unmapped when it is freed, and each thread's arena keeps its own rest.

/// For a program, before it starts threads: bounds what the allocator keeps, to about 8 MiB for each of two arenas.
///
/// Messages of up to 2 MiB still come from memory that was used before, which is what makes them quick. Without effect where
/// the C library has no such settings, and on memory of another allocator. A library must not decide this for its process.
pub fn bound_kept_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    crate::sys::bound_allocator(crate::sys::AllocatorBounds {
        mapped_from: 2 << 20,
        kept: 8 << 20,
        arenas: 2,
    });
}

/// Gives freed memory back to the system, as far as the allocator can.
///
/// It takes some milliseconds for some hundred MiB, during which other threads may wait to allocate. Without effect where the
/// C library has no such call, and on memory of another allocator.
pub fn give_back_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    crate::sys::trim_allocator();
}
