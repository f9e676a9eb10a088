//! `compare`, `stats`, `sensitivity`, `noise` and `demo`.

use saliency_core::{Family, Recipe};
use serde_json::Value;

use super::{DEMO, Sandbox, dimensions, listed};

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn classes_are_compared_in_a_symmetric_matrix() {
    let sandbox = Sandbox::with_scene();
    let args = [
        "compare",
        "scene.png",
        "--json",
        "--out",
        "out",
        "--classes",
    ];
    let save = ["top:4", "--save", "png,json"];
    let report = sandbox.json(&[&args[..], &save, &DEMO].concat());
    let rows = report["correlations"].as_array().unwrap();
    let matrix: Vec<Vec<f64>> = rows
        .iter()
        .map(|row| row.as_array().unwrap().iter().map(number).collect())
        .collect();
    assert_eq!(matrix.len(), 4);
    let mut total = 0.0;
    for (i, row) in matrix.iter().enumerate() {
        assert_eq!(row.len(), 4);
        assert!((row[i] - 1.0).abs() < 1e-12);
        for (j, value) in row.iter().enumerate() {
            assert!((value - matrix[j][i]).abs() < 1e-12 && value.abs() <= 1.0);
            total += if i == j { 0.0 } else { *value };
        }
    }
    assert!((number(&report["mean_correlation"]) - total / 12.0).abs() < 1e-12);
    let classes = report["classes"].as_array().unwrap();
    assert!(classes.is_sorted_by_key(|c| -number(&c["probability"])));
    assert_eq!(report["scores"].as_array().unwrap().len(), 4);

    let files = ["scene-gradient-classes.json", "scene-gradient-classes.png"];
    assert_eq!(sandbox.files("out"), files);
    assert!(dimensions(&sandbox, "out/scene-gradient-classes.png").0 > 400);
    let written: Value =
        serde_json::from_slice(&sandbox.read("out/scene-gradient-classes.json")).unwrap();
    assert_eq!(written, report);

    // A class by number and by name; with itself it correlates fully.
    let twice = sandbox.json(&[&args[..], &["6, heart", "--save", "none"], &DEMO].concat());
    assert!((number(&twice["mean_correlation"]) - 1.0).abs() < 1e-6);
    let text = sandbox.succeeds(&[&["compare", "scene.png"][..], &DEMO].concat());
    assert!(text.contains("mean correlation between classes"), "{text}");
}

#[test]
fn statistics_are_those_of_explain_with_a_histogram() {
    let sandbox = Sandbox::with_scene();
    let args = [
        "stats",
        "scene.png",
        "--json",
        "--out",
        "out",
        "--target",
        "6",
    ];
    let save = ["--save", "png,json"];
    let report = &sandbox.json(&[&args[..], &save, &DEMO].concat())[0];
    let explained = &sandbox.explain(&["--save", "none", "--target", "6"])[0];
    assert_eq!(report["statistics"], explained["statistics"]);
    let value = |name: &str| number(&report["statistics"][name]);
    let order = ["min", "median", "p75", "p90", "p95", "p99", "max"].map(value);
    assert!(order.is_sorted() && order[0] >= 0.0, "{order:?}");
    let files = [
        "scene-gradient-6-histogram.png",
        "scene-gradient-6-statistics.json",
    ];
    assert_eq!(sandbox.files("out"), files);
    assert!(dimensions(&sandbox, "out/scene-gradient-6-histogram.png").0 > 200);
    let text = sandbox.succeeds(&[&["stats", "scene.png"][..], &DEMO].concat());
    for name in ["sparsity", "median", "p99", "wrote"] {
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn more_noise_changes_maps_more() {
    let sandbox = Sandbox::with_scene();
    sandbox.scene("other.png", 1);
    let rows = |scale: &str| {
        let images = ["sensitivity", "scene.png", "other.png"];
        let args = ["--json", "--scale", scale];
        sandbox.json(&[&images[..], &args, &DEMO].concat())
    };
    let (none, little, much) = (rows("0"), rows("0.001"), rows("0.5"));
    for image in 0..2 {
        let at = |rows: &Value, name: &str| number(&rows[image][name]);
        assert_eq!(at(&none, "max_difference"), 0.0);
        assert!(at(&none, "correlation") > 1.0 - 1e-9);
        let correlations = [&none, &little, &much].map(|r| at(r, "correlation"));
        assert!(correlations.is_sorted_by(|a, b| a > b), "{correlations:?}");
        let means = [&none, &little, &much].map(|r| at(r, "mean_difference"));
        assert!(means.is_sorted_by(|a, b| a < b), "{means:?}");
        assert!(at(&much, "max_difference") > at(&much, "mean_difference"));
    }
    let text = sandbox.succeeds(&[&["sensitivity", "scene.png"][..], &DEMO].concat());
    assert!(text.contains("gradient under noise of 0.01"), "{text}");
}

#[test]
fn the_noise_demonstration_draws_and_measures() {
    let sandbox = Sandbox::with_scene();
    let args = [
        "noise",
        "scene.png",
        "--json",
        "--out",
        "out",
        "--save",
        "png,json",
    ];
    let options = ["--levels", "0.02,0.3", "--samples", "8"];
    let report = sandbox.json(&[&args[..], &options, &DEMO].concat());
    let levels = report["levels"].as_array().unwrap();
    assert_eq!(levels.len(), 2);
    assert_eq!(levels[0]["level"], 0.02);
    let correlation = |level: &Value| number(&level["noisy_correlation"]);
    assert!(correlation(&levels[0]) > correlation(&levels[1]));
    for level in levels {
        assert!(number(&level["smooth_roughness"]) > 0.0);
        assert!(number(&level["smooth_repeatability"]) <= 1.0);
    }
    assert_eq!(
        listed(&report),
        ["out/scene-noise.png", "out/scene-noise.json"]
    );
    assert_eq!(
        sandbox.files("out"),
        ["scene-noise.json", "scene-noise.png"]
    );
    assert!(dimensions(&sandbox, "out/scene-noise.png").0 > 400);
    let text = [
        "noise",
        "scene.png",
        "--samples",
        "2",
        "--levels",
        "0.1",
        "--save",
        "none",
    ];
    let text = sandbox.succeeds(&[&text[..], &DEMO].concat());
    assert!(text.contains("roughness of the plain gradient"), "{text}");
}

#[test]
fn the_demo_is_a_page_whose_links_resolve() {
    let sandbox = Sandbox::new();
    let text = sandbox.succeeds(&["demo", "--scenes", "7", "--out", "out", "--device", "cpu"]);
    let page = sandbox.path("out/index.html");
    assert!(text.contains(page.to_str().unwrap()), "{text}");
    let html = String::from_utf8(sandbox.read("out/index.html")).unwrap();
    assert!(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>"));
    let links: Vec<&str> = [" src=\"", " href=\""]
        .into_iter()
        .flat_map(|attribute| html.split(attribute).skip(1))
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    let scores: Value = serde_json::from_slice(&sandbox.read("out/scores.json")).unwrap();
    let scores = scores.as_array().unwrap();
    // Of the first six scenes: the scene, its outline and mask, two pictures for each method.
    assert_eq!(links.len(), 6 * (3 + 2 * scores.len()));
    for link in links {
        assert!(!link.contains(':') && !link.starts_with('/'), "{link}");
        dimensions(&sandbox, &format!("out/{link}"));
    }
    let methods: Vec<&str> = scores
        .iter()
        .map(|s| s["method"].as_str().unwrap())
        .collect();
    for form in [
        "smoothgrad",
        "smoothgrad-signed",
        "smoothgrad-squared",
        "vargrad",
    ] {
        assert!(methods.contains(&form), "{form} of {methods:?}");
    }
    // Every method is there or said to be left out, and of presets only the forms.
    for info in Recipe::METHODS {
        let is_preset = Recipe::named(info.name).unwrap().info().unwrap().name != info.name;
        let left_out = text.lines().any(|line| {
            line.starts_with("left out: ")
                && line.contains(info.name)
                && html.contains(line.trim_start_matches("left out: "))
        });
        match (is_preset, info.family) {
            (true, _) => assert!(!methods.contains(&info.name) || info.family == Family::Gradient),
            (false, Family::Attention) => assert!(left_out, "{}: {text}", info.name),
            (false, _) => assert!(methods.contains(&info.name), "{}", info.name),
        }
    }
    for score in scores {
        assert_eq!(score["scenes"], 7);
        let method = score["method"].as_str().unwrap();
        assert!(text.contains(method) && html.contains(method));
        for share in ["pointing_game", "mass", "area"] {
            assert!((0.0..=1.0).contains(&number(&score[share])), "{score}");
        }
        assert!(number(&score["seconds_per_map"]) > 0.0);
    }
}
