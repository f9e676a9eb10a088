//! Memory of this process, where the system tells.

use std::fs;

use serde_json::{Value, json};

/// Resident memory now and at most, in bytes.
pub fn now() -> Value {
    json!({ "now": field("VmRSS:"), "peak": field("VmHWM:") })
}

/// Forgets the peak so far.
pub fn forget_peak() -> Value {
    // Refused on systems without it; the peak is then that of the whole process.
    let _ = fs::write("/proc/self/clear_refs", "5");
    now()
}

fn field(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    1024 * kibibytes.unwrap_or(0)
}
