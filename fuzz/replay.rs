// Included by the tests that replay `corpus/`: what is kept there once made the fuzzers see something new.
use std::path::Path;

/// Puts every kept input of a target to it, and names the one that breaks a promise.
pub(crate) fn replay(target: &str, function: fn(&[u8])) {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus")).join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = files
        .map(|entry| entry.expect("folders can be read").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for file in files {
        let data = std::fs::read(&file).expect("files can be read");
        if let Err(panic) = std::panic::catch_unwind(|| function(&data)) {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let why = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or_default();
            panic!("{}: {why}", file.display());
        }
    }
}
