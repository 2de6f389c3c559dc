//! Whether memory stays where it is.

/// What a series may gain between its second and its last fifth, in KiB: less than the pages that an allocator takes and
/// gives back by itself, and in ten minutes far less than any leak that matters.
pub const SLACK_KIB: u64 = 1024;

/// By how much a series of samples grew: the median of its last fifth over that of its second. The first fifth is not
/// asked, since a process that has just begun takes what it needs.
pub fn growth_kib(samples: &[u64]) -> u64 {
    let fifth = samples.len() / 5;
    let median = |part: &[u64]| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part.get(part.len() / 2).copied().unwrap_or_default()
    };
    if fifth == 0 {
        return 0;
    }
    let early = median(&samples[fifth..2 * fifth]);
    let late = median(&samples[samples.len() - fifth..]);
    late.saturating_sub(early)
}

/// Whether it is flat.
pub fn is_flat(samples: &[u64]) -> bool {
    growth_kib(samples) <= SLACK_KIB
}
