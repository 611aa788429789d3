//! How uids share what is bounded for all of them together.

/// Whether one of `uids` that holds `share` may have `amount` more, of something of which all may have `bound` and have
/// `used`; `u64::MAX` is no bound.
///
/// It may if what is left then would do for `uids` more shares like its own: `(uids + 1) * (amount + share) - share` is at
/// most what is left now. So whoever comes first has half at most, there is always something left for who comes next, and
/// the more there are the less each may have. The rule is that of dbus-broker.
pub(crate) fn is_fair(amount: u64, share: u64, used: u64, bound: u64, uids: u64) -> bool {
    if bound == u64::MAX {
        return true;
    }
    let Some(left) = bound.checked_sub(used) else { return false };
    let after = u128::from(amount) + u128::from(share);
    let needed = (u128::from(uids) + 1).checked_mul(after).map(|all| all - u128::from(share));
    needed.is_some_and(|needed| needed <= u128::from(left))
}

#[cfg(test)]
mod tests {
    use super::is_fair;

    #[test]
    fn each_may_have_a_share_that_leaves_as_much_to_the_others_and_to_one_more() {
        // Alone: half of 1200.
        assert!(is_fair(600, 0, 0, 1200, 1) && !is_fair(601, 0, 0, 1200, 1));
        assert!(is_fair(1, 599, 599, 1200, 1) && !is_fair(1, 600, 600, 1200, 1));
        // The second finds 600: a third of that.
        assert!(is_fair(200, 0, 600, 1200, 2) && !is_fair(201, 0, 600, 1200, 2));
        // The third finds 400: a quarter of that. The first gets nothing more.
        assert!(is_fair(100, 0, 800, 1200, 3) && !is_fair(101, 0, 800, 1200, 3));
        assert!(!is_fair(1, 600, 800, 1200, 3));
        assert!(is_fair(0, 0, 1200, 1200, 3) && !is_fair(1, 0, 1200, 1200, 3));
    }

    #[test]
    fn no_number_overflows() {
        assert!(is_fair(u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX), "there is no bound");
        assert!(!is_fair(u64::MAX, u64::MAX - 1, 0, u64::MAX - 1, u64::MAX));
        assert!(!is_fair(0, 0, 11, 10, 1), "more is held than the bound");
    }
}
