use burn::module::Module;

use crate::{
    data::{Scale, Task},
    train::{Scores, Trained},
};

/// What a person wants to know of a trained model.
pub(super) fn card(trained: &Trained, command: &str) -> String {
    let description = &trained.description;
    let (layout, training) = (&description.layout, &description.training);
    let options = &training.options;
    let unit = if layout.window.is_some() {
        "windows"
    } else {
        "rows"
    };
    let task = match &layout.task {
        Task::Classification { classes } => format!(
            "classification of `{}` into {} classes: {}",
            layout.target,
            classes.len(),
            classes.join(", ")
        ),
        Task::Regression => format!("regression: {}", layout.output_names().join(", ")),
    };
    let input = match &layout.window {
        Some(window) => format!(
            "windows of {} rows{}, {} numbers each",
            window.steps,
            window
                .time
                .as_ref()
                .map(|time| format!(" in the order of `{time}`"))
                .unwrap_or_default(),
            layout.encoder.width()
        ),
        None => format!("rows, {} numbers each", layout.encoder.width()),
    };
    let split = match layout.window {
        Some(_) => "by time, in this order",
        None => "drawn by the seed",
    };
    let mut text = format!(
        "# A model of {data}

| | |
|---|---|
| task | {task} |
| input | {input} |
| network | {family}, {parameters} values |
| data | `{data}`, {rows} rows, SHA-256 `{sha256}` |
| split | {training_count} {unit} for training, {validation} for validation, {test} for the test; {split} |
| training | AdamW, rate {rate}, weight decay {decay}, steps of {batch}, {epochs} epochs, weights of epoch {best} |
| seed | {seed} |
| time to train | {seconds:.1} seconds |
",
        data = description.data.name,
        family = description.architecture.family(),
        parameters = trained.predictor.num_params(),
        rows = description.data.rows,
        sha256 = description.data.sha256,
        training_count = training.samples.training,
        validation = training.samples.validation,
        test = training.samples.test,
        rate = options.rate,
        decay = options.decay,
        batch = options.chosen_batch(training.samples.training),
        epochs = training.epochs,
        best = training.best_epoch,
        seed = options.seed,
        seconds = trained.seconds,
    );
    if !command.is_empty() {
        text += &format!("| command | `{}` |\n", command.replace('|', "\\|"));
    }
    text += "\n## Scores\n\nTraining was stopped by the validation scores; nothing was chosen by the test scores.\n\n";
    text += &scores(&description.validation, &description.test);
    text += "\n## Columns\n\n| column | scaling, fitted on the training rows |\n|---|---|\n";
    for column in layout.encoder.columns() {
        let scale = match &column.scale {
            Scale::Standard { mean, std } => format!("(value - {mean:.6}) / {std:.6}"),
            Scale::OneHot { categories, .. } => format!("one of {}", categories.join(", ")),
        };
        text += &format!("| {} | {} |\n", column.name, scale.replace('|', "\\|"));
    }
    if !description.notes.is_empty() {
        text += "\n## Notes\n\n";
        for note in &description.notes {
            text += &format!("- {note}\n");
        }
    }
    text
}

fn scores(validation: &Scores, test: &Scores) -> String {
    let mut text = String::from("| score | validation | test |\n|---|---|---|\n");
    for ((name, validation), (_, test)) in validation.named().into_iter().zip(test.named()) {
        text += &format!("| {name} | {validation:.4} | {test:.4} |\n");
    }
    text
}
