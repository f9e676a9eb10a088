//! The `saliency` command: explains what a neural network looked at.

mod args;
mod commands;
mod device;
mod error;
mod files;
mod inputs;
mod model;
mod page;
mod progress;
mod report;
mod table;

use std::{panic, process::ExitCode};

use clap::Parser;

use args::{Args, Command};
use error::Error;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(refusal) => return refuse(&refusal),
    };
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
            report::print_error(&error.to_string());
            ExitCode::from(error.code())
        }
    }
}

/// Prints help as it is, and what is wrong with a command line as one line.
fn refuse(refusal: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::{
        DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion,
    };
    match refusal.kind() {
        DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand => refusal.exit(),
        _ => {
            report::print_error(&one_line(&refusal.to_string()));
            ExitCode::from(2)
        }
    }
}

/// The paragraphs of clap's message on one line, without those that only point to `--help`.
fn one_line(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let paragraphs = message.split("\n\n").map(|paragraph| {
        let words: Vec<&str> = paragraph.split_whitespace().collect();
        words.join(" ")
    });
    let useful = paragraphs.filter(|p| !p.is_empty() && !p.starts_with("For more information"));
    useful.collect::<Vec<_>>().join("; ")
}

fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Explain(args) => commands::explain::run(&args),
        Command::Importance(args) => commands::importance::run(&args),
        Command::Compare(args) => commands::compare::run(&args),
        Command::Stats(args) => commands::stats::run(&args),
        Command::Sensitivity(args) => commands::sensitivity::run(&args),
        Command::Noise(args) => commands::noise::run(&args),
        Command::Models(args) => commands::models::run(&args),
        Command::Methods(args) => commands::methods::run(&args),
        Command::Layers(args) => commands::layers::run(&args),
        Command::Profile(args) => commands::profile::run(&args),
        Command::Devices(args) => commands::devices::run(&args),
        Command::Fetch(args) => commands::fetch::run(&args),
        Command::Train(args) => commands::train::run(&args),
        Command::TrainDemo(args) => commands::train_demo::run(&args),
        Command::Demo(args) => commands::demo::run(&args),
        Command::DemoFinance(args) => commands::demo_finance::run(&args),
        Command::Completions { shell } => commands::completions::run(shell),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_command_line_is_one_line() {
        let refusal = |line: &str| {
            let refused = Args::try_parse_from(line.split(' ')).unwrap_err();
            one_line(&refused.to_string())
        };
        assert_eq!(
            refusal("saliency explain x.png --save jsn"),
            "invalid value 'jsn' for '--save <SAVE>' [possible values: png, json, npy, \
             safetensors, csv, none]; tip: a similar value exists: 'json'"
        );
        assert_eq!(
            refusal("saliency explain"),
            "the following required arguments were not provided: <IMAGE>...; \
             Usage: saliency explain <IMAGE>..."
        );
    }
}
