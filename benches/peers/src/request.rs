//! What all peers carry: a request of 64 bytes that says how long the reply shall be, and the replies.

use std::hint::black_box;
use std::sync::LazyLock;

use bytes::Bytes;

/// Why a peer can't do what it is asked to. Each has its own errors, and all that is done with them is to show them.
pub(crate) type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Bytes of a request.
pub(crate) const REQUEST: usize = 64;

/// The longest reply.
pub(crate) const LONGEST: usize = 16 << 20;

/// Of a reply, the reader touches a byte in so many.
const PAGE: usize = 4096;

/// What servers answer with. It is printable, for those that carry text, and written once, so that no page of it is the
/// kernel's one page of zeros.
static REPLY: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![b'7'; LONGEST]));

/// A request for `size` bytes: the number, and what makes it as long as all are.
pub(crate) fn request(size: u32) -> [u8; REQUEST] {
    let mut request = [0; REQUEST];
    request[..4].copy_from_slice(&size.to_le_bytes());
    request
}

/// The reply that a request asks for: a part of what is there once, by reference.
pub(crate) fn answer(request: &[u8]) -> Result<Bytes, Fault> {
    let size = request.first_chunk::<4>().map(|size| u32::from_le_bytes(*size));
    let size = size.filter(|_| request.len() == REQUEST).ok_or("a request has 64 bytes")?;
    reply_of(size)
}

/// A reply of `size` bytes, as [`answer`] has them.
pub(crate) fn reply_of(size: u32) -> Result<Bytes, Fault> {
    let size = usize::try_from(size).ok().filter(|size| *size <= LONGEST);
    Ok(REPLY.slice(..size.ok_or("no reply is longer than 16 MiB")?))
}

/// Reads a byte of each page, as one does who looks at a reply, and tells how long it is.
pub(crate) fn touch(reply: &[u8]) -> usize {
    let sum: usize = black_box(reply).iter().step_by(PAGE).map(|byte| usize::from(*byte)).sum();
    black_box(sum);
    reply.len()
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, REQUEST, answer, reply_of, request, touch};

    #[test]
    fn a_request_is_answered_with_what_it_asks_for() {
        for size in [0_u32, 64, 100_000, 16 << 20] {
            let request = request(size);
            assert_eq!(request.len(), REQUEST);
            let reply = answer(&request).expect("legal");
            assert_eq!(touch(&reply), size as usize);
            assert!(reply.iter().all(|byte| *byte == b'7'));
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert!(answer(&request(64)[1..]).is_err());
        assert!(answer(&[]).is_err());
        assert!(reply_of(u32::try_from(LONGEST).expect("it fits") + 1).is_err());
    }
}
