//! What the targets share.

use std::panic;

/// Says nothing of panics that the library catches and turns into errors: only a target's own
/// assertions are findings.
pub fn report_own_panics() {
    panic::set_hook(Box::new(|panic| {
        if panic
            .location()
            .is_some_and(|at| at.file().contains("fuzz_targets"))
        {
            eprintln!("{panic}");
        }
    }));
}
