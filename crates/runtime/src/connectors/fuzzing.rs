//! Whatever stands in a file, in whatever pieces it is read.
use super::lines::Lines;
use crate::event::{Batch, Token};

/// The longest line, how many events are taken at once and the sizes of two kinds of reads, a byte each; then a file. The
/// lines are those of a split at newlines, whole or known to be too long, with the offsets where they end.
pub fn lines(data: &[u8]) {
    let Some((&[max_line, events, one, other], file)) = data.split_first_chunk::<4>() else {
        return;
    };
    let token = |position: u64| Token {
        epoch: 1,
        partition: 0,
        position: position.into(),
        part: 0,
    };
    let max_line = usize::from(max_line);
    let mut sizes = [one, other].map(|size| usize::from(size) + 1).into_iter().cycle();
    let mut lines = Lines::new(0, max_line);
    let mut found: Vec<(Vec<u8>, usize, bool)> = Vec::new();
    let mut collect = |batch: Batch| {
        let faults: Vec<u128> = batch.faults.iter().map(|(token, _)| token.position).collect();
        if let Some(together) = &batch.lines {
            let each: Vec<u8> = batch
                .events
                .iter()
                .flat_map(|e| [&e.payload, &b"\n"[..]].concat())
                .collect();
            assert_eq!(each, **together);
        }
        for event in batch.events {
            let at = usize::try_from(event.token.position).expect("no file of a fuzzer is larger");
            found.push((event.payload.to_vec(), at, faults.contains(&event.token.position)));
        }
    };
    loop {
        let at = usize::try_from(lines.read_at()).expect("no file of a fuzzer is larger");
        let read = sizes.next().unwrap_or(1).min(file.len() - at);
        if read == 0 {
            break;
        }
        let mut space = lines.space();
        space.free()[..read].copy_from_slice(&file[at..at + read]);
        space.fill(read);
        lines.feed(space);
        while lines.has_ready() {
            let mut batch = Batch::default();
            lines.take(&mut batch, usize::from(events).max(1), usize::MAX, token);
            assert!(!batch.events.is_empty(), "nothing is taken of what is ready");
            collect(batch);
        }
    }
    let mut batch = Batch::default();
    lines.finish(&mut batch, token);
    collect(batch);

    let mut expected = file.split(|byte| *byte == b'\n').peekable();
    let mut end = 0;
    for (payload, at, fault) in &found {
        let line = expected.next().expect("more lines than there are");
        end += line.len() + 1;
        assert_eq!(*at, end.min(file.len()));
        assert_eq!(*fault, line.len() > max_line, "{line:?}");
        let whole = payload == line;
        assert!(
            whole || *fault && line.starts_with(payload),
            "{payload:?} of {line:?}"
        );
    }
    // After the last newline nothing has begun.
    let rest: Vec<&[u8]> = expected.collect();
    assert!(
        matches!(rest.as_slice(), [] | [b""]),
        "lines are missing: {rest:?}"
    );
}
