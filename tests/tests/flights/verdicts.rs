//! The check that the runs must pass, fed with what it must not let pass.
use e2e::rows::Rows;
use e2e::verdict::{BATCH, Kill, Pause, Violation, judge};

fn rows() -> Rows {
    Rows::made_up(10_000).unwrap()
}

/// The sink that got these rows in this order, and its length before the row at `cut`.
fn sink(rows: &Rows, order: impl IntoIterator<Item = usize>) -> Vec<u8> {
    let line = |n| [rows.row(n), b"\n"].concat();
    order.into_iter().flat_map(line).collect()
}

#[test]
fn what_is_whole_and_in_order_passes() {
    let rows = rows();
    let still = Pause {
        at_paused: 7,
        before_resume: 7,
    };
    let passed = judge(&rows, rows.text(), &[still], &[]).unwrap();
    assert!(passed.rows.is_empty());
}

#[test]
fn one_row_that_moved_in_a_pause_is_told() {
    let rows = rows();
    let at = sink(&rows, 0..500).len() as u64;
    let moved = Pause {
        at_paused: at,
        before_resume: at + rows.row(500).len() as u64 + 1,
    };
    let verdict = judge(&rows, rows.text(), &[moved], &[]);
    assert!(
        matches!(verdict, Err(Violation::Moved { pause: 0, .. })),
        "{verdict:?}"
    );
}

#[test]
fn rows_that_are_missing_swapped_doubled_torn_or_foreign_are_told() {
    let rows = rows();
    let all = rows.len();
    let without = |gone| (0..all).filter(move |n| *n != gone);
    let swapped = |at| {
        (0..all).map(move |n| {
            if n == at {
                at + 1
            } else if n == at + 1 {
                at
            } else {
                n
            }
        })
    };
    let doubled = |at| (0..all).flat_map(move |n| std::iter::repeat_n(n, 1 + usize::from(n == at)));
    let missing = |row, found| Err(Violation::Missing { row, found });
    let table = [
        (sink(&rows, without(0)), missing(0, Some(1))),
        (sink(&rows, without(4711)), missing(4711, Some(4712))),
        (sink(&rows, without(all - 1)), missing(all - 1, None)),
        (sink(&rows, 0..0), missing(0, None)),
        (sink(&rows, swapped(4711)), missing(4711, Some(4712))),
        (sink(&rows, doubled(4711)), Err(Violation::Again { row: 4711 })),
        (
            rows.text()[..rows.text().len() - 1].to_vec(),
            Err(Violation::Torn),
        ),
        (
            [b"nobody's\n", rows.text()].concat(),
            Err(Violation::Foreign { line: 0 }),
        ),
    ];
    for (sink, expected) in table {
        assert_eq!(judge(&rows, &sink, &[], &[]), expected);
    }
}

#[test]
fn a_kill_explains_one_batch_where_it_happened_and_nothing_else() {
    let rows = rows();
    let all = rows.len();
    let again = |from: usize, to: usize| sink(&rows, (0..to).chain(from..all));
    let at = |row| sink(&rows, 0..row).len() as u64;
    let kill = |row, paused| Kill {
        whole: at(row),
        paused,
    };

    let passed = judge(&rows, &again(5000, 6000), &[], &[kill(6000, false)]).unwrap();
    assert_eq!(passed.rows, [1000]);
    // Elsewhere, or with nothing in flight, a kill explains nothing.
    for kills in [&[][..], &[kill(6001, false)], &[kill(6000, true)]] {
        let verdict = judge(&rows, &again(5000, 6000), &[], kills);
        assert_eq!(verdict, Err(Violation::Again { row: 5000 }), "{kills:?}");
    }
    let most = judge(&rows, &again(0, BATCH), &[], &[kill(BATCH, false)]).unwrap();
    assert_eq!(most.rows, [BATCH]);
    let verdict = judge(&rows, &again(0, BATCH + 1), &[], &[kill(BATCH + 1, false)]);
    let expected = Violation::TooManyAgain {
        row: 0,
        rows: BATCH + 1,
    };
    assert_eq!(verdict, Err(expected));
}
