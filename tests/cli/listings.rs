//! `models`, `methods`, `devices`, `completions`, help, and where output goes.

use std::{fs::OpenOptions, process::Stdio};

use saliency_core::{Family, Needs, Recipe};
use serde_json::Value;

use super::{DEMO, Outcome, Sandbox};

const COMMANDS: [&str; 14] = [
    "explain",
    "compare",
    "stats",
    "sensitivity",
    "noise",
    "profile",
    "models",
    "methods",
    "layers",
    "devices",
    "fetch",
    "train-demo",
    "demo",
    "completions",
];

/// The listing as JSON, after a check that its table names the same.
fn listing(command: &str, name: &str) -> Vec<Value> {
    let sandbox = Sandbox::new();
    let Value::Array(rows) = sandbox.json(&[command, "--json"]) else {
        panic!("{command}: not a list");
    };
    let table = sandbox.succeeds(&[command]);
    for row in &rows {
        let name = row[name].as_str().unwrap();
        assert!(table.contains(name), "{name} is not in {table}");
    }
    rows
}

#[test]
fn models_are_listed_with_where_their_weights_are() {
    let rows = listing("models", "name");
    let row = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap();
    assert_eq!(row("resnet50")["parameters"], 25_557_032);
    assert_eq!(row("resnet50")["weights"], "`saliency fetch resnet50`");
    assert_eq!(row("cifar_resnet20")["input"], 32);
    assert_eq!(row("cifar_resnet20")["weights"], "--weights FILE");
    assert_eq!(row("demo")["weights"], "embedded");
    assert_eq!(row("demo")["classes"], 12);
}

#[test]
fn layers_are_listed_with_shapes_and_parameters() {
    let sandbox = Sandbox::new();
    let Value::Array(rows) = sandbox.json(&["layers", "--model", "resnet18", "--json"]) else {
        panic!("not a list");
    };
    let row = |name: &str| rows.iter().find(|row| row["name"] == name);
    let row = |name: &str| row(name).unwrap_or_else(|| panic!("no {name}"));
    let stem = row("conv1");
    assert_eq!(stem["op"], "conv");
    assert_eq!(stem["shape"], "[rows, 64, 112, 112]");
    assert_eq!(stem["parameters"], 64 * 3 * 7 * 7);
    assert_eq!(row("layer4.1.conv2")["shape"], "[rows, 512, 7, 7]");
    assert_eq!(row("fc")["parameters"], 512 * 1000 + 1000);
    // All of torchvision's parameters, and the running statistics of its BatchNorms.
    let all: u64 = rows
        .iter()
        .map(|row| row["parameters"].as_u64().unwrap())
        .sum();
    assert_eq!(all, 11_689_512 + 2 * 4_800);

    let table = sandbox.succeeds(&["layers", "--model", "resnet18"]);
    let header = table.lines().find(|line| line.contains("operation"));
    let columns: Vec<&str> = header.unwrap().split_whitespace().collect();
    assert_eq!(columns, ["layer", "operation", "output", "parameters"]);
    for row in &rows {
        let name = row["name"].as_str().unwrap();
        let line = table
            .lines()
            .find(|line| line.split_whitespace().next() == Some(name));
        let line = line.unwrap_or_else(|| panic!("{name} is not in {table}"));
        assert!(line.contains(row["shape"].as_str().unwrap()), "{line}");
    }
}

#[test]
fn a_listed_layer_is_one_for_methods() {
    let sandbox = Sandbox::with_scene();
    let Value::Array(rows) = sandbox.json(&["layers", "--model", "demo", "--json"]) else {
        panic!("not a list");
    };
    let spatial = |row: &&Value| row["shape"].as_str().unwrap().matches(',').count() == 3;
    let layer = rows.iter().find(spatial).unwrap()["name"].as_str().unwrap();
    let args = ["--save", "none", "--method", "grad-cam", "--layer", layer];
    let report = &sandbox.explain(&args)[0];
    assert_eq!(report["recipe"]["layers"], serde_json::json!([layer]));
}

#[test]
fn listed_methods_run() {
    let sandbox = Sandbox::with_scene();
    let rows = listing("methods", "name");
    assert!(rows.len() >= 6);
    for row in rows {
        let method = row["name"].as_str().unwrap();
        let info = Recipe::named(method).unwrap().info().unwrap();
        // These need several rows, or a transformer.
        if info.needs == Needs::Batch || info.family == Family::Attention {
            continue;
        }
        let mut args = vec!["--save", "none", "--method", method];
        for (option, few) in [("samples", "--samples=2"), ("steps", "--steps=2")] {
            if row["recipe"].get(option).is_some() {
                args.push(few);
            }
        }
        // Presets with a pass for each of the picture's values get superpixels.
        if row["recipe"]["features"] == "each" {
            args.push("--option=features=auto");
        }
        let report = &sandbox.explain(&args)[0];
        assert_eq!(report["recipe"]["method"], row["recipe"]["method"]);
        assert_eq!(report["recipe"]["form"], row["recipe"]["form"]);
    }
}

#[test]
fn a_profile_has_every_layer_with_its_share() {
    let sandbox = Sandbox::new();
    let report = sandbox.json(&["profile", "--model", "demo", "--passes", "1", "--json"]);
    assert!(report["peak_gflops"].as_f64().unwrap() > 0.0);
    let layers = report["layers"].as_array().unwrap();
    let stem = layers.iter().find(|l| l["name"] == "conv1").unwrap();
    // 3x3 from 3 to 16 channels, at 32x32 places.
    assert_eq!(stem["operations"], 2 * 9 * 3 * 16 * 32 * 32);
    assert!(stem["forward_gflops"].as_f64().unwrap() > 0.0);
    let table = sandbox.succeeds(&["profile", "--model", "demo", "--passes", "1"]);
    for layer in layers {
        assert!(table.contains(layer["name"].as_str().unwrap()), "{table}");
    }
}

#[test]
fn the_cpu_is_a_device_and_one_device_is_automatic() {
    let rows = listing("devices", "device");
    let cpu = rows.iter().find(|row| row["device"] == "cpu").unwrap();
    assert_eq!(cpu["kind"], "cpu");
    assert_eq!(rows.iter().filter(|row| row["auto"] == true).count(), 1);
}

#[test]
fn completions_know_every_command() {
    let sandbox = Sandbox::new();
    for (shell, mark) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef saliency"),
        ("fish", "complete -c saliency"),
    ] {
        let script = sandbox.succeeds(&["completions", shell]);
        assert!(script.contains(mark), "{shell}");
        for command in COMMANDS {
            assert!(script.contains(command), "{shell}: {command}");
        }
        assert!(script.contains("recipe"), "{shell}");
    }
}

#[test]
fn every_help_has_an_example_that_is_read() {
    let sandbox = Sandbox::new();
    let version = sandbox.succeeds(&["--version"]);
    assert!(version.starts_with("saliency ") && version.contains('.'));
    let help = sandbox.succeeds(&["--help"]);
    assert!(help.contains("Examples:"));
    for command in COMMANDS {
        assert!(help.contains(command), "{command}");
        let help = sandbox.succeeds(&[command, "--help"]);
        assert!(help.contains("Example"), "{command} --help:\n{help}");
        let example = format!("saliency {command}");
        let (_, examples) = help.split_once("Example").unwrap();
        assert!(examples.contains(&example), "{command} --help:\n{help}");
        assert_eq!(help, sandbox.succeeds(&["help", command]));
    }
    let nothing = sandbox.run(&[]);
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(2), ""));
    assert!(nothing.stderr.contains("Usage: saliency <COMMAND>"));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["methods", "--json"]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let outcome = Outcome::from(child.wait_with_output().unwrap());
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
}

#[test]
#[cfg(target_os = "linux")]
fn output_that_cannot_be_written_is_an_error() {
    let sandbox = Sandbox::with_scene();
    let explain = [&["explain", "scene.png", "--save", "none"][..], &DEMO].concat();
    for args in [
        &explain[..],
        &["methods", "--json"],
        &["completions", "zsh"],
    ] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = sandbox.command(args).stdout(full).output().unwrap();
        let outcome = Outcome::from(output);
        assert_eq!(outcome.code, Some(1), "{args:?}: {outcome:?}");
        assert_eq!(outcome.error_lines().len(), 1, "{outcome:?}");
        assert!(outcome.stderr.contains("standard output"), "{outcome:?}");
    }
}

#[test]
fn the_guide_has_every_method() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/methods");
    for method in Recipe::METHODS {
        let family = serde_json::to_value(method.family).unwrap();
        let page = folder.join(format!("{}.md", family.as_str().unwrap()));
        let text = std::fs::read_to_string(&page).unwrap();
        let name = format!("| `{}` |", method.name);
        assert!(text.contains(&name), "{} lacks {name}", page.display());
    }
}
