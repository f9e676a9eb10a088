use clap::CommandFactory;
use clap_complete::Shell;

use crate::{args::Args, error::Error};

pub fn run(shell: Shell) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "saliency", &mut script);
    crate::report::print(String::from_utf8_lossy(&script).trim_end())
}
