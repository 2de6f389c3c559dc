#![allow(clippy::unwrap_used)] // a test stops at the first surprise
use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn token(partition: u32, offset: u128) -> Token {
    Token {
        epoch: 1,
        partition,
        position: offset,
        part: 0,
    }
}

fn ledger(partitions: u32) -> Offsets {
    let mut offsets = Offsets::default();
    offsets.begin(1);
    (0..partitions).for_each(|p| offsets.assign(p));
    offsets
}

fn hand_out(offsets: &mut Offsets, partition: u32, range: std::ops::Range<u128>) {
    for offset in range {
        assert!(offsets.add(&token(partition, offset), Instant::now()), "{offset}");
    }
}

#[test]
fn an_event_that_is_done_before_an_earlier_one_does_not_move_the_offset_past_it() {
    let mut offsets = ledger(2);
    hand_out(&mut offsets, 0, 10..15);
    hand_out(&mut offsets, 1, 7..8);
    assert_eq!(offsets.uncommitted(), [], "nothing is done");
    offsets.done(&[token(0, 12), token(0, 13), token(1, 7)]);
    assert_eq!(offsets.uncommitted(), [(1, 8)], "10 and 11 are not done");
    offsets.done(&[token(0, 10)]);
    assert_eq!(offsets.uncommitted(), [(0, 11), (1, 8)]);
    offsets.done(&[token(0, 11)]);
    assert_eq!(offsets.uncommitted(), [(0, 14), (1, 8)]);
    offsets.committed(0, 14);
    assert_eq!(offsets.uncommitted(), [(1, 8)]);
}

/// What a plain store-the-last-acknowledged does with the same events.
#[test]
fn twin_storing_what_was_acknowledged_last_moves_past_what_is_not_done() {
    let mut offsets = ledger(1);
    hand_out(&mut offsets, 0, 10..15);
    let done = [token(0, 12), token(0, 13)];
    offsets.done(&done);
    let last = done.iter().map(|t| t.position as i64 + 1).max();
    assert_eq!(last, Some(14));
    assert_eq!(offsets.uncommitted(), []);
}

#[test]
fn what_was_given_back_comes_again_and_is_committed_only_then() {
    let mut offsets = ledger(1);
    hand_out(&mut offsets, 0, 0..6);
    offsets.claim(&token(0, 0));
    let held: Vec<Token> = (2..6).map(|n| token(0, n)).collect();
    offsets.give_back(&held);
    assert_eq!(offsets.rewinds(), [(0, 2)]);
    assert!(!offsets.has(&token(0, 3)) && offsets.has(&token(0, 1)));
    assert!(
        !offsets.add(&token(0, 6), Instant::now()),
        "not before it has gone back"
    );
    offsets.done(&[token(0, 0), token(0, 1)]);
    assert_eq!(offsets.uncommitted(), [(0, 2)]);
    offsets.rewound(0);
    assert_eq!(offsets.rewinds(), []);
    hand_out(&mut offsets, 0, 2..7);
    offsets.done(&held);
    assert_eq!(offsets.uncommitted(), [(0, 6)]);
}

#[test]
fn a_partition_that_goes_to_another_member_is_forgotten_and_its_late_acknowledgements_change_nothing() {
    let mut offsets = ledger(2);
    hand_out(&mut offsets, 0, 0..3);
    hand_out(&mut offsets, 1, 0..3);
    assert!(offsets.claim(&token(0, 0)));
    assert_eq!(offsets.revoke(0), 3);
    assert!(!offsets.claim(&token(0, 1)) && offsets.claim(&token(1, 0)));
    offsets.done(&[token(0, 0), token(1, 0)]);
    assert_eq!(offsets.uncommitted(), [(1, 1)]);
    offsets.committed(0, 1);
    // Given again: from where the other member has committed.
    offsets.assign(0);
    hand_out(&mut offsets, 0, 2..4);
    assert_eq!(offsets.uncommitted(), [(1, 1)]);
}

#[test]
fn another_opening_forgets_all_and_the_same_one_nothing() {
    let mut offsets = ledger(1);
    hand_out(&mut offsets, 0, 0..2);
    offsets.begin(1);
    assert!(offsets.has(&token(0, 0)));
    offsets.begin(2);
    assert!(!offsets.has(&token(0, 0)));
    assert!(
        !offsets.add(&token(0, 0), Instant::now()),
        "of an earlier opening"
    );
}

#[test]
fn what_is_not_past_the_gate_expires_and_is_fetched_again() {
    let mut offsets = ledger(1);
    hand_out(&mut offsets, 0, 0..4);
    assert!(offsets.claim(&token(0, 0)));
    assert_eq!(offsets.expire(), 3);
    assert!(offsets.has(&token(0, 0)) && !offsets.has(&token(0, 1)));
    assert_eq!(offsets.rewinds(), [(0, 1)]);
}

proptest! {
    /// Whatever the order of acknowledgements: committed is everything before the first that is not done, with gaps in
    /// the offsets as transactions and compaction leave them.
    #[test]
    fn the_offset_is_the_first_that_is_not_done(gaps in vec(1_u128..4, 1..60), order in vec(any::<prop::sample::Index>(), 0..60)) {
        let mut offsets = ledger(1);
        let mut at = 100;
        let mut all = BTreeSet::new();
        for gap in gaps {
            at += gap;
            all.insert(at);
            prop_assert!(offsets.add(&token(0, at), Instant::now()));
        }
        let first = *all.first().unwrap();
        let mut open = all.clone();
        for index in order {
            if open.is_empty() {
                break;
            }
            let one = *index.get(&open.iter().copied().collect::<Vec<_>>());
            open.remove(&one);
            offsets.done(&[token(0, one)]);
            let wanted = open.first().copied().unwrap_or(at + 1) as i64;
            let told = offsets.uncommitted();
            match wanted > first as i64 {
                true => prop_assert_eq!(told, [(0, wanted)]),
                false => prop_assert_eq!(told, []),
            }
        }
    }
}
