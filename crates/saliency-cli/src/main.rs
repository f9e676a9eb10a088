//! The `saliency` command: explains what a neural network looked at.

mod args;
mod commands;
mod device;
mod error;
mod files;
mod inputs;
mod model;
mod progress;
mod report;

use std::{panic, process::ExitCode};

use clap::Parser;

use args::{Args, Command};
use error::Error;

fn main() -> ExitCode {
    let args = Args::parse();
    // Burn reports some misuse by panicking; the message becomes an error, not a backtrace.
    panic::set_hook(Box::new(|_| ()));
    let outcome = panic::catch_unwind(|| run(args.command)).unwrap_or_else(|payload| {
        let message = payload
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| payload.downcast_ref::<&str>().map(|s| s.to_string()))
            .unwrap_or_default();
        Err(Error::Internal(message))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.code())
        }
    }
}

fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Explain(args) => commands::explain::run(&args),
        Command::Compare(args) => commands::compare::run(&args),
        Command::Stats(args) => commands::stats::run(&args),
        Command::Sensitivity(args) => commands::sensitivity::run(&args),
        Command::Noise(args) => commands::noise::run(&args),
        Command::Models(args) => commands::models::run(&args),
        Command::Methods(args) => commands::methods::run(&args),
        Command::Devices(args) => commands::devices::run(&args),
        Command::Fetch(args) => commands::fetch::run(&args),
        Command::TrainDemo(args) => commands::train_demo::run(&args),
        Command::Demo(args) => commands::demo::run(&args),
        Command::Completions { shell } => commands::completions::run(shell),
    }
}
