use std::ops::ControlFlow;

use saliency_models::{
    data::{SchemaOptions, Window},
    saved::check_target,
    train::{SequenceOptions, TrainOptions, Trained, train},
};

use crate::{args::Train, device, error::Error, progress::Bar, report};

pub fn run(args: &Train) -> Result<(), Error> {
    check_target(&args.out)?;
    let device = device::open(&args.device)?;
    let bar = Bar::new("epochs", args.epochs as u64);
    let trained = train(&options(args), &args.data, &device, &mut |progress| {
        let message = format!(
            "training, validation loss {:.4} (best {:.4})",
            progress.validation_loss, progress.best_loss
        );
        bar.set(&message, progress.epoch as u64, progress.epochs as u64);
        ControlFlow::Continue(())
    })?;
    drop(bar);
    trained.save(&args.out, &command_line())?;
    match args.json {
        true => report::print_json(&trained.description),
        false => report::print(&summary(&trained, args)),
    }
}

fn options(args: &Train) -> TrainOptions {
    let sequence = args.sequence.map(|steps| SequenceOptions {
        steps,
        horizon: args.horizon.clone(),
        quantity: args.target_as,
        time: args.time.clone(),
    });
    TrainOptions {
        task: args.task,
        family: args.model,
        features: args.features.clone(),
        drop: args.drop.clone(),
        sequence,
        csv: args.csv.options(),
        schema: SchemaOptions {
            categorical: args.categorical.clone(),
            numeric: args.numeric.clone(),
            absent: args.absent.clone(),
        },
        missing: args.missing,
        hidden: args.hidden,
        layers: args.layers,
        epochs: args.epochs,
        batch: args.batch,
        rate: args.rate,
        decay: args.decay,
        patience: args.patience,
        balance: args.balance,
        validation: args.validation,
        test: args.test,
        seed: args.seed,
        ..TrainOptions::new(&args.target)
    }
}

/// The command as it was given, for the card.
fn command_line() -> String {
    let quoted = |arg: String| match arg.contains([' ', '"', '\'', ';', '*', '|']) || arg.is_empty()
    {
        true => format!("'{}'", arg.replace('\'', r"'\''")),
        false => arg,
    };
    let args = std::env::args_os()
        .skip(1)
        .map(|arg| quoted(arg.to_string_lossy().into_owned()));
    std::iter::once("saliency".into())
        .chain(args)
        .collect::<Vec<_>>()
        .join(" ")
}

fn summary(trained: &Trained, args: &Train) -> String {
    let description = &trained.description;
    let training = &description.training;
    let unit = match &description.layout.window {
        Some(Window { steps, .. }) => format!("windows of {steps} rows"),
        None => "rows".into(),
    };
    let mut text = format!(
        "{} on {}: {} {unit} for training, {} for validation, {} for the test\n{} epochs in {:.1} s, best after {}\n",
        description.architecture.family(),
        description.data.name,
        training.samples.training,
        training.samples.validation,
        training.samples.test,
        training.epochs,
        trained.seconds,
        training.best_epoch,
    );
    let scores = description
        .validation
        .named()
        .into_iter()
        .zip(description.test.named());
    let rows = scores.map(|((name, validation), (_, test))| {
        vec![
            name.to_owned(),
            report::number(validation),
            report::number(test),
        ]
    });
    text += &report::table(&["score", "validation", "test"], rows);
    for note in &description.notes {
        text += &format!("\nnote: {note}");
    }
    text + &format!("\nwrote {}", args.out.display())
}
