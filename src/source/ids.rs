//! The owners of files in a container's layer, from the ranges of users and groups that its engine used.
//!
//! This module is pure: it combines the ranges of the store's user with those of a container. It must not
//! know where the ranges come from.

use crate::source::directory::IdRange;

/// Returns the ranges of a container, with the owners that its files have on disk. `user` are the ranges of
/// the store's user, `container` those that the engine recorded for the container, as that user sees them; if
/// there are none, the container has those of the user.
pub(super) fn combine(user: &[IdRange], container: &[IdRange]) -> Vec<IdRange> {
    if container.is_empty() {
        return user.to_vec();
    }
    let pairs = container.iter().flat_map(|upper| user.iter().map(move |lower| (upper, lower)));
    pairs.filter_map(|(upper, lower)| overlap(upper, lower)).collect()
}

/// Returns the part of `upper` whose IDs below are in `lower`.
fn overlap(upper: &IdRange, lower: &IdRange) -> Option<IdRange> {
    let start = upper.host.max(lower.container);
    let end =
        (u64::from(upper.host) + u64::from(upper.len)).min(u64::from(lower.container) + u64::from(lower.len));
    let len = u32::try_from(end.checked_sub(u64::from(start)).filter(|len| *len > 0)?).ok()?;
    let container = upper.container.checked_add(start - upper.host)?;
    let host = lower.host.checked_add(start - lower.container)?;
    Some(IdRange { container, host, len })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(container: u32, host: u32, len: u32) -> IdRange {
        IdRange { container, host, len }
    }

    #[test]
    fn f33_ranges_of_a_container_are_those_of_the_user_in_part() {
        let user = [range(0, 1000, 1), range(1, 100_000, 65_536)];
        for (container, combined) in [
            (vec![range(0, 0, 10)], vec![range(0, 1000, 1), range(1, 100_000, 9)]),
            (vec![range(0, 1, 100)], vec![range(0, 100_000, 100)]),
            (vec![range(0, 1, 5), range(5, 0, 1)], vec![range(0, 100_000, 5), range(5, 1000, 1)]),
            (vec![range(7, 65_530, 100)], vec![range(7, 165_529, 7)]),
            (vec![range(0, 70_000, 5)], vec![]),
            (vec![range(u32::MAX, 1, 2)], vec![range(u32::MAX, 100_000, 2)]),
            (vec![range(0, u32::MAX, u32::MAX)], vec![]),
        ] {
            assert_eq!(combine(&user, &container), combined, "{container:?}");
        }
        assert_eq!(combine(&user, &[]), user);
    }
}
