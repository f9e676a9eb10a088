use std::{
    cell::RefCell,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use saliency_core::Progress;

const PATIENCE: Duration = Duration::from_secs(1);

/// A bar that appears once something has taken over a second, on a terminal only.
pub struct Bar {
    bar: ProgressBar,
    started: Instant,
}

impl Bar {
    /// Counts `total` things called `unit`.
    pub fn new(unit: &'static str, total: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        let template = match unit {
            "bytes" => "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            "file" => "{msg} {wide_bar} {percent} % {eta}",
            _ => "{msg} {wide_bar} {pos}/{len} {eta}",
        };
        bar.set_style(ProgressStyle::with_template(template).expect("the template is valid"));
        Bar {
            bar,
            started: Instant::now(),
        }
    }

    /// Shows `done` of `total`.
    pub fn set(&self, message: &str, done: u64, total: u64) {
        if self.bar.is_hidden() && self.started.elapsed() > PATIENCE {
            // indicatif stays quiet where stderr is not a terminal.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
        if self.bar.message() != message {
            self.bar.set_message(message.to_owned());
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A progress callback for `saliency-core`, with a bar of its own for each stage.
pub fn callback(label: &str) -> impl Fn(Progress) -> ControlFlow<()> + use<'_> {
    let bar: RefCell<Option<(saliency_core::Stage, Bar)>> = RefCell::default();
    move |progress| {
        let mut bar = bar.borrow_mut();
        let (done, total) = (progress.done as u64, progress.total as u64);
        if bar
            .as_ref()
            .is_none_or(|(stage, _)| *stage != progress.stage)
        {
            *bar = Some((progress.stage, Bar::new("rows", total)));
        }
        if let Some((stage, shown)) = bar.as_ref() {
            shown.set(&format!("{label}: {stage}"), done, total);
        }
        ControlFlow::Continue(())
    }
}
