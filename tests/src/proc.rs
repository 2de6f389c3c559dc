//! What Linux says of a process in `/proc`.
use anyhow::{Context, Result};
use std::fs;
use std::time::Duration;

/// Resident memory in KiB.
///
/// # Errors
/// If the process has ended.
pub fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .context("VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// The part of it that is the process's own: neither its program text nor another file.
///
/// # Errors
/// If the process has ended.
pub fn anonymous_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("RssAnon:"))
        .context("RssAnon")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// Processor time of all threads that live, to the nanosecond.
///
/// # Errors
/// If the process has ended or the kernel keeps no such account.
pub fn processor_time(pid: u32) -> Result<Duration> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let account = fs::read_to_string(thread?.path().join("schedstat"))?;
        let first = account.split_whitespace().next().context("schedstat")?;
        nanos += first.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// How many file descriptors are open.
///
/// # Errors
/// If the process has ended.
pub fn descriptors(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// How many threads live.
///
/// # Errors
/// If the process has ended.
pub fn threads(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/task"))?.count())
}
