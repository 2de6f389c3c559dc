//! A lane's run takes events one by one, and asks before each.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use tidegate_gate::{Gate, Run};

/// Takes events in a run: how many, when `at_event` closes the gate inside of one of them.
type Taker = fn(&Run<'_>, &[usize], &mut dyn FnMut(usize)) -> usize;

fn fold(run: &Run<'_>, events: &[usize], each: &mut dyn FnMut(usize)) -> usize {
    let (sum, left) = run.fold(events, 0, |sum, event| {
        each(*event);
        sum + event
    });
    let taken = events.len() - left.len();
    assert_eq!(sum, (0..taken).sum::<usize>(), "in order, each once");
    assert_eq!(left, &events[taken..], "the rest is what was not taken");
    taken
}

/// The broken twin: it asks before every fourth event only, as a loop that is unrolled without care would.
fn every_fourth(run: &Run<'_>, events: &[usize], each: &mut dyn FnMut(usize)) -> usize {
    let mut taken = 0;
    for four in events.chunks(4) {
        if run.closing() {
            break;
        }
        four.iter().for_each(|event| each(*event));
        taken += four.len();
    }
    taken
}

/// Whether no event begins after the one in which the gate was closed, however many there are and whichever it is.
fn finishes_only_the_event_in_hand(taker: Taker) -> bool {
    let events: Vec<usize> = (0..13).collect();
    (0..=events.len()).all(|len| {
        (0..=len).all(|closed_in| {
            let (gate, mut keeper) = Gate::new("lane");
            let mut lane = gate.lane();
            let run = lane.try_enter().unwrap();
            let taken = taker(&run, &events[..len], &mut |event| {
                if event == closed_in {
                    keeper.close();
                }
            });
            taken == len.min(closed_in + 1)
        })
    })
}

#[test]
fn a_run_takes_no_event_after_the_one_in_which_the_gate_closed() {
    assert!(finishes_only_the_event_in_hand(fold));
}

#[test]
fn a_run_that_asks_before_every_fourth_event_is_caught() {
    assert!(!finishes_only_the_event_in_hand(every_fourth));
}

#[test]
fn a_closed_gate_lets_a_run_take_nothing() {
    let (gate, mut keeper) = Gate::new("lane");
    let mut lane = gate.lane();
    let run = lane.try_enter().unwrap();
    keeper.close();
    let (sum, left) = run.fold(&[1, 2, 3], 0, |sum, event| sum + event);
    assert_eq!((sum, left), (0, &[1, 2, 3][..]));
}
