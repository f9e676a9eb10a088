//! `explain`: what is written, what is said, and which target and reduction are meant.

use safetensors::SafeTensors;
use serde_json::Value;

use super::{DEMO, Sandbox, dimensions, listed};

/// Shape and values of a version 1 `.npy` file of little-endian f32.
fn npy(bytes: &[u8]) -> (Vec<usize>, Vec<f32>) {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!(start % 64, 0);
    let header = std::str::from_utf8(&bytes[10..start]).unwrap();
    assert!(header.contains("'descr': '<f4'"), "{header}");
    assert!(header.contains("'fortran_order': False"), "{header}");
    let shape = header.split(['(', ')']).nth(1).unwrap();
    let numbers = shape.split(',').map(str::trim).filter(|n| !n.is_empty());
    (
        numbers.map(|n| n.parse().unwrap()).collect(),
        floats(&bytes[start..]),
    )
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (values, rest) = bytes.as_chunks();
    assert!(rest.is_empty());
    values.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Shape and values of a tensor of a safetensors file.
fn tensor(bytes: &[u8], name: &str) -> (Vec<usize>, Vec<f32>) {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), safetensors::Dtype::F32);
    (tensor.shape().to_vec(), floats(tensor.data()))
}

fn statistic(report: &Value, name: &str) -> f64 {
    report["statistics"][name].as_f64().unwrap()
}

#[test]
fn every_format_holds_the_same_map() {
    let sandbox = Sandbox::with_scene();
    let save = ["--out", "out", "--save", "png,json,npy,safetensors"];
    let reports = sandbox.explain(&save);
    assert_eq!(reports.len(), 1);
    let report = &reports[0];
    let names = [
        "scene-gradient-signed.png",
        "scene-gradient.json",
        "scene-gradient.npy",
        "scene-gradient.png",
        "scene-gradient.safetensors",
    ];
    assert_eq!(sandbox.files("out"), names);
    let mut files = listed(report);
    files.sort();
    assert_eq!(files, names.map(|name| format!("out/{name}")));

    for name in ["scene-gradient.png", "scene-gradient-signed.png"] {
        let (width, height) = dimensions(&sandbox, &format!("out/{name}"));
        assert!(width > 2 * height && height >= 96, "{width}x{height}");
    }
    let written: Value = serde_json::from_slice(&sandbox.read("out/scene-gradient.json")).unwrap();
    assert_eq!(written, *report);

    let (shape, values) = npy(&sandbox.read("out/scene-gradient.npy"));
    assert_eq!(shape, [3, 96, 96]);
    assert!(values.iter().any(|v| *v > 0.0) && values.iter().any(|v| *v < 0.0));
    let file = sandbox.read("out/scene-gradient.safetensors");
    assert_eq!(tensor(&file, "attribution"), (shape, values.clone()));

    let (shape, map) = tensor(&file, "map");
    assert_eq!(shape, [96, 96]);
    let pixels = 96 * 96;
    for (i, value) in map.iter().enumerate() {
        let channels = [values[i], values[pixels + i], values[2 * pixels + i]];
        assert_eq!(
            *value,
            channels.map(f32::abs).into_iter().fold(0.0, f32::max)
        );
    }
    let mean = map.iter().map(|v| f64::from(*v)).sum::<f64>() / pixels as f64;
    assert!((statistic(report, "mean") - mean).abs() < 1e-12 * mean);
    let max = map.iter().copied().fold(0.0, f32::max);
    assert_eq!(statistic(report, "max"), f64::from(max));
}

#[test]
fn a_report_has_its_fields() {
    let sandbox = Sandbox::with_scene();
    let report = &sandbox.explain(&["--save", "none"])[0];
    assert_eq!(report["image"], "scene.png");
    assert_eq!(report["model"], "demo");
    assert_eq!(report["device"], "CPU (flex)");
    assert_eq!(report["reduction"], "max");
    assert_eq!(report["recipe"], serde_json::json!({"method": "gradient"}));
    assert_eq!(report["explained"], report["predicted"]);
    assert_eq!(report["target"]["class"], report["predicted"]["class"]);
    let probability = report["predicted"]["probability"].as_f64().unwrap();
    assert!((1.0 / 12.0..=1.0).contains(&probability));
    assert!(report["score"].is_f64());
    assert_eq!(report["statistics"].as_object().unwrap().len(), 11);
    assert!(report["readings"].is_array());
    assert_eq!(report["files"], serde_json::json!([]));
    assert_eq!(sandbox.files(""), ["scene.png"]);
}

#[test]
fn a_table_names_the_class_and_the_files() {
    let sandbox = Sandbox::with_scene();
    let text = sandbox.succeeds(&[&["explain", "scene.png"][..], &DEMO].concat());
    for part in ["demo", "CPU (flex)", "gradient", "scene.png", "%"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let files = ["scene-gradient-signed.png", "scene-gradient.png"];
    assert_eq!(sandbox.files("saliency-maps"), files);
}

#[test]
fn targets_are_numbers_names_the_best_or_the_predicted() {
    let sandbox = Sandbox::with_scene();
    let target = |target: &str| sandbox.explain(&["--save", "none", "--target", target]);
    let (number, name) = (target("6"), target("Heart"));
    assert_eq!(number[0]["explained"]["label"], "heart");
    assert_eq!(number, name);
    assert_ne!(number[0]["statistics"], target("7")[0]["statistics"]);

    let best = target("top:3");
    let probability = |r: &Value| r["explained"]["probability"].as_f64().unwrap();
    assert_eq!(best.len(), 3);
    assert!(best.is_sorted_by(|a, b| probability(a) >= probability(b)));
    assert_eq!(target("top:1"), target("predicted"));
    // One pass over all classes gives each class's own map.
    for report in &best {
        let class = report["explained"]["class"].to_string();
        let mean = statistic(&target(&class)[0], "mean");
        assert!((statistic(report, "mean") - mean).abs() < 1e-5 * mean);
    }
}

#[test]
fn several_targets_have_files_of_their_own_whatever_their_names() {
    let sandbox = Sandbox::with_scene();
    // Names that come to the same in a file name, as ImageNet's two cranes do.
    sandbox.write("labels.txt", "a/b\n".repeat(11) + "a b\n");
    let args = [
        "--target",
        "top:4",
        "--labels",
        "labels.txt",
        "--out",
        "out",
    ];
    let reports = sandbox.explain(&args);
    let mut files: Vec<String> = reports.iter().flat_map(listed).collect();
    assert_eq!(files.len(), 8);
    files.sort();
    files.dedup();
    assert_eq!(files.len(), 8);
    assert!(files.iter().all(|file| sandbox.path(file).is_file()));
    assert_eq!(sandbox.files("out").len(), 8);
}

#[test]
fn reductions_are_ordered_as_their_formulas_say() {
    let sandbox = Sandbox::with_scene();
    let max = |reduction: &str| {
        let report = &sandbox.explain(&["--save", "none", "--reduce", reduction])[0];
        assert_eq!(report["reduction"], reduction);
        statistic(report, "max")
    };
    let [mean, max, l2, sum] = ["mean", "max", "l2", "sum"].map(max);
    assert!(0.0 < mean && mean < max && max < l2 && l2 < sum);
    assert!((3.0 * mean - sum).abs() < 1e-5 * sum);
    let squared = &sandbox.explain(&["--save", "none", "--reduce", "squared"])[0];
    assert!((statistic(squared, "max") - max * max).abs() < 1e-5 * max * max);

    sandbox.explain(&["--out", "out", "--reduce", "all"]);
    let files = [
        "scene-gradient-reductions.png",
        "scene-gradient-signed.png",
        "scene-gradient.png",
    ];
    assert_eq!(sandbox.files("out"), files);
    let (width, height) = dimensions(&sandbox, "out/scene-gradient-reductions.png");
    assert!(width > 200 && height > 200, "{width}x{height}");
}

#[test]
fn maps_without_a_sign_have_no_signed_picture() {
    let sandbox = Sandbox::with_scene();
    for (method, signed) in [
        ("smoothgrad", false),
        ("smoothgrad-squared", false),
        ("vargrad", false),
        ("smoothgrad-signed", true),
        ("input-x-gradient", true),
    ] {
        let mut args = vec!["--method", method, "--out", method];
        if method != "input-x-gradient" {
            args.extend(["--samples", "3"]);
        }
        let files = listed(&sandbox.explain(&args)[0]);
        assert_eq!(files[0], format!("{method}/scene-{method}.png"));
        assert_eq!(files.len(), 1 + usize::from(signed), "{files:?}");
    }
}

#[test]
fn a_folder_stands_for_the_pictures_in_it() {
    let sandbox = Sandbox::new();
    for (index, name) in ["b.PNG", "a.bmp", "c.jpeg"].into_iter().enumerate() {
        sandbox.scene(&format!("photos/{name}"), index as u64);
    }
    sandbox.write("photos/notes.txt", "not a picture");
    sandbox.write("photos/d.png/e.txt", "a folder, though it is called d.png");
    let args = ["explain", "photos", "--json", "--out", "out"];
    let reports = sandbox.json(&[&args[..], &DEMO].concat());
    let images: Vec<&str> = reports.as_array().unwrap().iter().map(image).collect();
    assert_eq!(images, ["photos/a.bmp", "photos/b.PNG", "photos/c.jpeg"]);
    assert_eq!(sandbox.files("out").len(), 6);
}

fn image(report: &Value) -> &str {
    report["image"].as_str().unwrap()
}

#[test]
fn pictures_with_one_name_have_files_of_their_own() {
    let sandbox = Sandbox::new();
    sandbox.scene("a/x.png", 0);
    sandbox.scene("b/x.png", 1);
    let args = ["explain", "a/x.png", "b", "--out", "out", "--save", "npy"];
    sandbox.succeeds(&[&args[..], &DEMO].concat());
    assert_eq!(sandbox.files("out"), ["x-2-gradient.npy", "x-gradient.npy"]);
    let values = |name: &str| npy(&sandbox.read(&format!("out/{name}"))).1;
    assert_ne!(values("x-gradient.npy"), values("x-2-gradient.npy"));
}

#[test]
fn a_printed_recipe_gives_the_same_map() {
    let sandbox = Sandbox::with_scene();
    let args = [
        "--save",
        "none",
        "--method",
        "vargrad",
        "--of",
        "input-x-gradient",
        "--samples",
        "5",
        "--noise",
        "0.07",
        "--seed",
        "3",
    ];
    let report = &sandbox.explain(&args)[0];
    sandbox.write("recipe.json", report["recipe"].to_string());
    let again = &sandbox.explain(&["--save", "none", "--recipe", "recipe.json"])[0];
    assert_eq!(again, report);
    let other_seed = [&args[..11], &["4"]].concat();
    let other = &sandbox.explain(&other_seed)[0];
    assert_ne!(other["statistics"], report["statistics"]);
}

#[test]
fn the_same_command_gives_the_same_bytes() {
    let sandbox = Sandbox::with_scene();
    let written = |out: &str| {
        let save = ["--out", out, "--save", "png,json,npy,safetensors"];
        let method = ["--method", "smoothgrad-signed", "--samples", "6"];
        sandbox.explain(&[&save[..], &method].concat());
        let files = sandbox.files(out);
        assert_eq!(files.len(), 5);
        let read = |name: &String| {
            let bytes = sandbox.read(&format!("{out}/{name}"));
            match name.ends_with(".json") {
                // It lists the files, whose folder differs.
                true => String::from_utf8(bytes)
                    .unwrap()
                    .replace(out, "")
                    .into_bytes(),
                false => bytes,
            }
        };
        files.iter().map(read).collect::<Vec<_>>()
    };
    assert_eq!(written("one"), written("two"));
}

#[test]
fn the_batch_size_does_not_matter() {
    let sandbox = Sandbox::with_scene();
    let mean = |batch: &str| {
        let method = ["--method", "smoothgrad", "--samples", "10"];
        let args = [&["--save", "none", "--batch", batch][..], &method].concat();
        statistic(&sandbox.explain(&args)[0], "mean")
    };
    let whole = mean("64");
    for batch in ["1", "3", "10"] {
        assert!((mean(batch) - whole).abs() < 1e-5 * whole);
    }
}

#[test]
fn a_bad_picture_among_good_ones_stops_only_itself() {
    let sandbox = Sandbox::new();
    sandbox.scene("good.png", 0);
    sandbox.write("bad.png", "no picture");
    sandbox.scene("other.png", 1);
    let images = ["good.png", "bad.png", "missing.png", "other.png"];
    let args = [
        &["explain"][..],
        &images,
        &DEMO,
        &["--out", "out", "--json"],
    ]
    .concat();
    let outcome = sandbox.run(&args);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert_eq!(
        outcome.error_lines(),
        [
            "error: bad.png: is not a picture in a known format (PNG, JPEG, WebP, GIF, BMP, TIFF and PNM are read)",
            "error: missing.png: no such file",
            "error: 2 of 4 inputs failed",
        ]
    );
    let reports: Vec<Value> = serde_json::from_str(&outcome.stdout).unwrap();
    let done: Vec<&str> = reports.iter().map(image).collect();
    assert_eq!(done, ["good.png", "other.png"]);
    let files = [
        "good-gradient-signed.png",
        "good-gradient.png",
        "other-gradient-signed.png",
        "other-gradient.png",
    ];
    assert_eq!(sandbox.files("out"), files);
}
