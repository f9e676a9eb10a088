//! `--weights`: files of every kind that is not the network's, and one that is.

use burn::tensor::{Device, FloatDType};
use saliency_models::{weights::save_safetensors, zoo::Architecture};
use serde_json::json;

use super::{Sandbox, fixture};

const NET: [&str; 6] = [
    "--model",
    "cifar_resnet20",
    "--device",
    "cpu",
    "--out",
    "out",
];

/// With the weights of an untrained `cifar_resnet20` in `good.safetensors`.
fn with_weights(classes: usize) -> Sandbox {
    let sandbox = Sandbox::with_scene();
    let device = Device::flex();
    let net = Architecture::CifarResNet20.init(classes, &device).unwrap();
    save_safetensors(&net, sandbox.path("good.safetensors"), FloatDType::F32).unwrap();
    sandbox
}

fn refused(sandbox: &Sandbox, weights: &str, parts: &[&str]) {
    let args = ["explain", "scene.png", "--weights", weights];
    sandbox.refuses(1, &[&args[..], &NET].concat(), parts);
}

/// Length of a safetensors header with its own length before it.
fn header(bytes: &[u8]) -> usize {
    8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize
}

#[test]
fn the_networks_own_weights_are_used() {
    let sandbox = with_weights(10);
    let args = [
        "explain",
        "scene.png",
        "--json",
        "--weights",
        "good.safetensors",
    ];
    let report = &sandbox.json(&[&args[..], &NET].concat())[0];
    assert_eq!(report["model"], "cifar_resnet20");
    let frog = ["--target", "frog", "--save", "none"];
    let report = &sandbox.json(&[&args[..], &NET, &frog].concat())[0];
    assert_eq!(report["explained"]["class"], 6);
    assert_eq!(report["explained"]["label"], "frog");
}

#[test]
fn other_classes_do_not_get_the_usual_names() {
    let sandbox = with_weights(3);
    let args = ["explain", "scene.png", "--weights", "good.safetensors"];
    let explain = [&args[..], &NET, &["--json", "--save", "none"]].concat();
    let report = &sandbox.json(&[&explain[..], &["--target", "2"]].concat())[0];
    assert_eq!(report["explained"]["label"], "class 2");
    let by_name = [&args[..], &NET, &["--target", "cat"]].concat();
    sandbox.refuses(2, &by_name, &["have no names", "--labels FILE"]);
    sandbox.write("labels.json", json!(["one", "two", "cat"]).to_string());
    let named = ["--target", "cat", "--labels", "labels.json"];
    let named = &sandbox.json(&[&explain[..], &named].concat())[0];
    assert_eq!(named["explained"]["class"], 2);
}

#[test]
fn missing_weights_say_where_to_get_them() {
    let sandbox = Sandbox::with_scene();
    refused(&sandbox, "missing.pth", &["missing.pth: no such file"]);
    sandbox.write("folder/x", "");
    refused(&sandbox, "folder", &["folder: is not a file"]);
    let explain = ["explain", "scene.png", "--out", "out"];
    sandbox.refuses(
        2,
        &explain,
        &["no weights for resnet50", "`saliency fetch resnet50`"],
    );
    sandbox.refuses(
        2,
        &[&explain[..], &NET[..4]].concat(),
        &["cifar_resnet20", "--weights FILE"],
    );
    let unknown = ["--model", "resnet51"];
    sandbox.refuses(
        2,
        &[&explain[..], &unknown].concat(),
        &["`resnet51`", "resnet50", "demo"],
    );
    // A damaged file in the cache is not used.
    sandbox.write("saliency/weights/resnet50-11ad3fa6.pth", "half of it");
    sandbox.refuses(2, &explain, &["`saliency fetch resnet50`"]);
}

#[test]
fn files_that_are_no_weights() {
    let sandbox = Sandbox::with_scene();
    for (content, part) in [
        (&b""[..], "is empty"),
        (b"hello", "is not a known weight format"),
        (b"<!DOCTYPE html>", "is a web page"),
        (b"{\"message\": \"Not Found\"}", "is JSON text"),
        (
            b"version https://git-lfs.github.com/spec/v1",
            "is a Git LFS pointer",
        ),
        (
            b"PK\x03\x04 and no more",
            "damaged or incomplete PyTorch file",
        ),
        (b"NRUB and no more", "damaged or incomplete burnpack file"),
        (
            b"\xff\xff\xff\xff\xff\xff\xff\xff{",
            "damaged or incomplete safetensors file",
        ),
    ] {
        sandbox.write("file", content);
        refused(&sandbox, "file", &["file: ", part]);
    }
    let png = fixture("preprocess/decode/rgb.png");
    refused(
        &sandbox,
        png.to_str().unwrap(),
        &["is not a known weight format"],
    );
}

#[test]
fn hostile_weights_are_named_and_not_run() {
    let sandbox = Sandbox::with_scene();
    for (name, part) in [
        (
            "hostile.pth",
            "unsafe pickle: it asks Python to call `posix.system`",
        ),
        (
            "hostile.th",
            "unsafe pickle: it asks Python to call `posix.system`",
        ),
        (
            "hostile_eval.pth",
            "unsafe pickle: it asks Python to call `builtins.eval`",
        ),
        ("hostile.pkl", "is a plain pickle"),
    ] {
        refused(&sandbox, fixture(name).to_str().unwrap(), &[name, part]);
    }
    assert_eq!(sandbox.files(""), ["scene.png"]);
    // Tensors that would take four terabytes.
    let huge = json!({"linear.bias": {
        "dtype": "F32", "shape": [1u64 << 40], "data_offsets": [0, 1u64 << 42],
    }});
    let huge = huge.to_string();
    let length = (huge.len() as u64).to_le_bytes();
    sandbox.write("huge.safetensors", [&length[..], huge.as_bytes()].concat());
    refused(
        &sandbox,
        "huge.safetensors",
        &["damaged or incomplete safetensors file"],
    );
}

#[test]
fn weights_of_another_network_are_told_by_their_tensors() {
    let sandbox = with_weights(10);
    for name in ["zip.pth", "legacy.th", "f16.safetensors", "f64.safetensors"] {
        let parts = ["not weights of this network", "missing", "should be [16]"];
        refused(&sandbox, fixture(name).to_str().unwrap(), &parts);
    }
    let args = [
        "explain",
        "scene.png",
        "--out",
        "out",
        "--weights",
        "good.safetensors",
    ];
    for model in ["resnet18", "squeezenet1_1", "cifar_resnet56"] {
        let other = ["--device", "cpu", "--model", model];
        sandbox.refuses(
            1,
            &[&args[..], &other].concat(),
            &["not weights of this network"],
        );
    }
}

#[test]
fn weights_with_nan_are_refused() {
    let sandbox = with_weights(10);
    let good = sandbox.read("good.safetensors");
    for value in [f32::NAN, f32::INFINITY] {
        let mut bad = good.clone();
        let at = header(&good) + 4 * 1000;
        bad[at..at + 4].copy_from_slice(&value.to_le_bytes());
        sandbox.write("bad.safetensors", bad);
        refused(
            &sandbox,
            "bad.safetensors",
            &["bad.safetensors: ", "not finite"],
        );
    }
}

#[test]
fn cut_off_weights_are_refused() {
    let sandbox = with_weights(10);
    let good = sandbox.read("good.safetensors");
    let data = header(&good);
    for length in [
        1,
        7,
        9,
        100,
        data - 1,
        data,
        data + 5,
        good.len() / 2,
        good.len() - 1,
    ] {
        sandbox.write("cut.safetensors", &good[..length]);
        refused(&sandbox, "cut.safetensors", &["cut.safetensors: "]);
    }
    for name in ["zip.pth", "legacy.th"] {
        let whole = std::fs::read(fixture(name)).unwrap();
        for length in [5, whole.len() / 3, whole.len() - 40] {
            sandbox.write("cut.pth", &whole[..length]);
            refused(&sandbox, "cut.pth", &["cut.pth: "]);
        }
    }
}

#[test]
fn a_changed_bit_in_the_header_is_refused() {
    let sandbox = with_weights(10);
    let good = sandbox.read("good.safetensors");
    let text = String::from_utf8_lossy(&good[8..header(&good)]).into_owned();
    let after = |what: &str| 8 + text.find(what).unwrap() + what.len();
    for at in [
        3,
        8,
        after("\"shape\":["),
        after("\"dtype\":\""),
        after("\"data_offsets\":["),
        after("\"layer1.0.c"),
    ] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        sandbox.write("bad.safetensors", bad);
        refused(&sandbox, "bad.safetensors", &["bad.safetensors: "]);
    }
}
