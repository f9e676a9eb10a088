use std::io::Write as _;
use std::path::PathBuf;

use burn::tensor::{Device, TensorData};
use burn_store::{BurnpackStore, ModuleSnapshot, SafetensorsStore};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;

use super::*;
use crate::cifar_resnet::{CifarResNet, CifarResNetConfig};
use crate::squeezenet::SqueezeNetConfig;
use crate::zoo::Architecture;

/// What PyTorch computes in f64 for `zip.pth` and `image(9, 10)`; see
/// `tests/reference/weights.py`.
const LOGITS: [f64; 3] = [
    -0.27953937477695767,
    0.5572954555038645,
    -0.004397704976993655,
];

fn fixture(name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests-data");
    PathBuf::from(folder).join(name)
}

fn bytes_of(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

fn config() -> CifarResNetConfig {
    CifarResNetConfig::new(1).with_width(2).with_classes(3)
}

fn tiny() -> CifarResNet {
    config().init(&Device::flex()).unwrap()
}

fn f64_options() -> LoadOptions {
    LoadOptions::new().dtype(FloatDType::F64)
}

/// `((7 c + 3 h + 5 w) mod 11) / 11`.
fn image(height: usize, width: usize) -> Tensor<4> {
    let values: Vec<f64> = (0..3 * height * width)
        .map(|i| {
            let (c, h, w) = (i / (height * width), i / width % height, i % width);
            ((7 * c + 3 * h + 5 * w) % 11) as f64 / 11.0
        })
        .collect();
    let data = TensorData::new(values, [1, 3, height, width]);
    Tensor::from_data(data, (&Device::flex(), DType::F64))
}

fn logits(net: &CifarResNet) -> Vec<f64> {
    let output = net.forward(image(9, 10));
    output.into_data().try_to_vec().unwrap()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().zip(b);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn loads(name: &str) -> Loaded<CifarResNet> {
    load(tiny(), fixture(name), &f64_options()).unwrap()
}

fn fails(bytes: &[u8]) -> WeightsError {
    let error = load_bytes(tiny(), bytes, "file", &LoadOptions::new()).unwrap_err();
    let message = error.to_string();
    assert!(!message.contains('\n') && message.len() < 1500, "{message}");
    error
}

#[test]
fn every_format_gives_pytorchs_logits() {
    for (name, format, tolerance) in [
        ("zip.pth", Format::TorchZip, 1e-13),
        ("legacy.th", Format::TorchLegacy, 1e-13),
        ("f64.safetensors", Format::Safetensors, 1e-13),
        // The weights themselves are rounded to 11 and 8 bits.
        ("f16.safetensors", Format::Safetensors, 2e-3),
        ("bf16.safetensors", Format::Safetensors, 2e-2),
    ] {
        let from_file = loads(name);
        let from_bytes = load_bytes(tiny(), &bytes_of(name), name, &f64_options()).unwrap();
        for loaded in [from_file, from_bytes] {
            let distance = distance(&logits(&loaded.model), &LOGITS);
            assert!(distance < tolerance, "{name}: {distance:e}");
            assert_eq!(loaded.report.format, format);
            assert_eq!(loaded.report.tensors, 37);
        }
    }
}

#[test]
fn wrappers_are_removed_and_the_rest_is_reported() {
    let ignored = loads("legacy.th").report.ignored;
    assert_eq!(ignored.len(), 8, "{ignored:?}");
    assert!(ignored.contains(&"optimizer.state.0.exp_avg".to_string()));
    assert!(ignored.contains(&"layer3.0.bn2.num_batches_tracked".to_string()));
}

#[test]
fn loaded_networks_are_in_inference_mode() {
    let net = loads("zip.pth").model;
    let lifted = net.forward(image(9, 10).autodiff().require_grad());
    let lifted = lifted.into_data().try_to_vec::<f64>().unwrap();
    assert!(distance(&lifted, &LOGITS) < 1e-13);
}

#[test]
fn cut_off_files_are_errors() {
    for name in ["zip.pth", "legacy.th", "f16.safetensors", "f64.safetensors"] {
        let bytes = bytes_of(name);
        for part in 0..16 {
            fails(&bytes[..bytes.len() * part / 16]);
        }
        fails(&bytes[..bytes.len() - 1]);
    }
}

/// A checksum covers what a zip holds: a changed bit is found or does not matter. Other
/// formats have none, but no change may bring the reader down.
#[test]
fn changed_bits_are_found_or_harmless() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for name in ["zip.pth", "legacy.th", "f16.safetensors"] {
        let good = bytes_of(name);
        for _ in 0..400 {
            let mut bytes = good.clone();
            let position = rng.random_range(0..bytes.len());
            bytes[position] ^= 1 << rng.random_range(0..8);
            match load_bytes(tiny(), &bytes, name, &f64_options()) {
                Ok(loaded) if name == "zip.pth" => {
                    let distance = distance(&logits(&loaded.model), &LOGITS);
                    assert!(distance < 1e-13, "byte {position} changed the weights");
                }
                Ok(_) => {}
                Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
            }
        }
    }
}

#[test]
fn hostile_pickles_are_named_and_not_run() {
    for (name, call) in [
        ("hostile.pth", "posix.system"),
        ("hostile_eval.pth", "builtins.eval"),
        ("hostile.th", "posix.system"),
    ] {
        let error = fails(&bytes_of(name));
        assert!(
            matches!(&error, WeightsError::Hostile { call: named, .. } if named == call),
            "{error}"
        );
    }
    let error = fails(&bytes_of("hostile.pkl"));
    assert!(
        error
            .to_string()
            .starts_with("file: is a plain pickle, not weights")
    );
    assert!(!PathBuf::from("hostile-pickle-was-run").exists());
}

/// A legacy checkpoint with the given pickle of weights and one storage, "0".
fn legacy(weights: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec();
    bytes.extend(b"\x80\x02M\xe9\x03.");
    bytes.extend(b"\x80\x02}X\x0d\0\0\0little_endian\x88s.");
    bytes.extend(weights);
    bytes.extend(b"\x80\x02]X\x01\0\0\x000a.");
    bytes
}

#[test]
fn pickle_bombs_are_refused() {
    let instructions = legacy(&[b"\x80\x02".as_slice(), &[b'}'; 5_000_000]].concat());
    let error = fails(&instructions).to_string();
    assert!(error.contains("more than 4000000 instructions"), "{error}");

    let depth = legacy(&[&[b')'; 1][..], &[0x85; 100_000], b"."].concat());
    assert!(fails(&depth).to_string().contains("nesting"));

    // {"linear.bias": a tensor of 2^50 elements in a storage that claims to hold them}
    let huge = b"\x8a\x07\0\0\0\0\0\0\x04";
    let tensor = [
        b"\x80\x02}X\x0b\0\0\0linear.biasctorch._utils\n_rebuild_tensor_v2\n((".as_slice(),
        b"X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu",
        huge,
        b"tQK\0",
        huge,
        b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRs.",
    ]
    .concat();
    let error = fails(&legacy(&tensor)).to_string();
    assert!(error.starts_with("file: damaged or incomplete"), "{error}");

    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated);
    archive.start_file("archive/data.pkl", options).unwrap();
    archive.write_all(&vec![b'}'; 3_000_000]).unwrap();
    let bomb = archive.finish().unwrap().into_inner();
    let error = fails(&bomb).to_string();
    assert!(error.contains("claim to unpack to 3000000"), "{error}");
}

#[test]
fn what_is_no_weight_file_is_told_apart() {
    for (bytes, message) in [
        (
            &b""[..],
            "file: is empty (0 bytes); copy or download it again",
        ),
        (
            b"\n<!DOCTYPE html><html>",
            "file: is a web page, not weights; the download went wrong, fetch the file itself",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "file: is a Git LFS pointer, not weights; run `git lfs pull` to get the file itself",
        ),
        (
            b"{\"message\": \"Not Found\"}",
            "file: is JSON text, not weights; the download went wrong, fetch the file itself",
        ),
        (
            b"\x1f\x8b\x08\0",
            "file: is not a known weight format (it starts with \\x1f\\x8b\\x08\\x00); \
             give a .pth, .safetensors or .bpk file",
        ),
    ] {
        assert_eq!(fails(bytes).to_string(), message);
    }
    let open = |path: &str| load(tiny(), path, &LoadOptions::new()).unwrap_err();
    let missing = open("/no/such/file.pth").to_string();
    assert_eq!(missing, "/no/such/file.pth: no such file; check the path");
    assert!(matches!(open("/"), WeightsError::NotAFile { .. }));
}

#[test]
fn another_architecture_is_named_tensor_by_tensor() {
    let load = |config: CifarResNetConfig| {
        let net = config.init(&Device::flex()).unwrap();
        load(net, fixture("zip.pth"), &LoadOptions::new()).unwrap_err()
    };
    let message = load(config().with_classes(5)).to_string();
    assert!(
        message.ends_with(
            "zip.pth: these are not weights of this network: 2 misshaped (linear.bias is [3], \
             should be [5], linear.weight is [3, 8], should be [5, 8]); check the architecture \
             and the number of classes"
        ),
        "{message}"
    );
    let deeper = CifarResNetConfig {
        blocks_per_stage: 2,
        ..config()
    };
    let message = load(deeper).to_string();
    assert!(
        message.contains("30 missing (layer1.1.bn1.bias, "),
        "{message}"
    );
    assert!(message.contains(" and 25 more)"), "{message}");

    let net = SqueezeNetConfig::new().init(&Device::flex()).unwrap();
    let error = super::load(net, fixture("zip.pth"), &LoadOptions::new()).unwrap_err();
    let WeightsError::Mismatch { mismatch, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(mismatch.missing.len(), 52);
    assert_eq!(mismatch.unexpected.len(), 37);
}

#[test]
fn clones_of_the_network_are_left_alone() {
    let net = cast(&tiny(), FloatDType::F64);
    let before = logits(&net);
    let loaded = load(net.clone(), fixture("zip.pth"), &f64_options()).unwrap();
    assert!(distance(&logits(&loaded.model), &LOGITS) < 1e-13);
    assert_eq!(logits(&net), before);
}

#[test]
fn cast_changes_a_copy() {
    let net = loads("zip.pth").model;
    let half = cast(&net, FloatDType::F32);
    let output = half.forward(image(9, 10).cast(FloatDType::F32));
    assert_eq!(output.dtype(), DType::F32);
    let output: Vec<f64> = output.into_data().iter::<f64>().collect();
    assert!(distance(&output, &LOGITS) < 1e-6);
    assert!(distance(&logits(&net), &LOGITS) < 1e-13);
}

#[test]
fn saved_networks_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let net = loads("zip.pth").model;
    for (dtype, tolerance) in [
        (FloatDType::F64, 0.0),
        (FloatDType::F32, 0.0),
        (FloatDType::F16, 2e-3),
    ] {
        let path = folder.path().join(format!("{dtype:?}.safetensors"));
        std::fs::write(&path, b"an older file").unwrap();
        save_safetensors(&net, &path, dtype).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        save_safetensors(&net, &path, dtype).unwrap();
        assert!(bytes == std::fs::read(&path).unwrap(), "bytes differ");
        let loaded = load(tiny(), &path, &f64_options()).unwrap();
        let distance = distance(&logits(&loaded.model), &LOGITS);
        assert!(distance <= tolerance + 1e-13, "{dtype:?}: {distance:e}");
    }
    let left_over = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left_over, 3);
}

#[test]
fn saved_names_and_shapes_are_pytorchs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.safetensors");
    save_safetensors(&loads("zip.pth").model, &path, FloatDType::F32).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let ours = SafeTensors::deserialize(&bytes).unwrap();
    let bytes = bytes_of("f64.safetensors");
    let theirs = SafeTensors::deserialize(&bytes).unwrap();
    let shapes = |file: &SafeTensors| {
        let mut shapes: Vec<(String, Vec<usize>)> = file
            .iter()
            .filter(|(name, _)| !name.ends_with("num_batches_tracked"))
            .map(|(name, view)| (name.to_string(), view.shape().to_vec()))
            .collect();
        shapes.sort();
        shapes
    };
    assert_eq!(shapes(&ours), shapes(&theirs));

    let nowhere = folder.path().join("no/such/folder/net.safetensors");
    let error = save_safetensors(&tiny(), nowhere, FloatDType::F32).unwrap_err();
    assert!(matches!(error, WeightsError::Save { .. }), "{error}");
}

#[test]
fn burns_own_names_are_read_too() {
    let folder = tempfile::tempdir().unwrap();
    let net = loads("zip.pth").model;
    let pack = folder.path().join("net.bpk");
    let plain = folder.path().join("net.safetensors");
    net.save_into(&mut BurnpackStore::from_file(&pack)).unwrap();
    net.save_into(&mut SafetensorsStore::from_file(&plain))
        .unwrap();
    for (path, format) in [(&pack, Format::Burnpack), (&plain, Format::Safetensors)] {
        let loaded = load(tiny(), path, &f64_options()).unwrap();
        assert_eq!(logits(&loaded.model), logits(&net));
        assert_eq!(loaded.report.format, format);
    }
    let bytes = std::fs::read(&pack).unwrap();
    for part in 0..16 {
        fails(&bytes[..bytes.len() * part / 16]);
    }
}

#[test]
fn values_that_are_not_finite_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.safetensors");
    let net = loads("zip.pth").model;
    struct Scale;
    impl ModuleMapper for Scale {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| tensor * 1e6)
        }
    }
    save_safetensors(&net.map(&mut Scale), &path, FloatDType::F32).unwrap();
    load(tiny(), &path, &LoadOptions::new()).unwrap();
    let options = LoadOptions::new().dtype(FloatDType::F16);
    let error = load(tiny(), &path, &options).unwrap_err();
    assert!(
        matches!(error, WeightsError::NonFinite { dtype: "f16", .. }),
        "{error}"
    );
}

#[test]
fn one_bad_value_is_found_wherever_it_is() {
    let finite = vec![-f32::MAX; 10_000];
    assert!(all_finite(&TensorData::new(finite.clone(), [10_000])));
    for at in [0, 4095, 4096, 9_999] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = finite.clone();
            values[at] = bad;
            let wide: Vec<f64> = values.iter().copied().map(f64::from).collect();
            assert!(
                !all_finite(&TensorData::new(values, [10_000])),
                "{bad} at {at}"
            );
            assert!(
                !all_finite(&TensorData::new(wide, [10_000])),
                "{bad} at {at}"
            );
        }
    }
}

/// Logits of the published CIFAR-10 ResNets as PyTorch computes them in f64.
#[test]
fn published_cifar_resnets_give_pytorchs_logits() {
    for (name, architecture, expected) in [
        (
            "resnet20-12fca82f.th",
            Architecture::CifarResNet20,
            [
                -3.491315275,
                -5.637226427,
                4.04512414,
                4.171900662,
                4.419699792,
                0.405934738,
                0.425483954,
                -1.850021014,
                0.878462182,
                -3.413276799,
            ],
        ),
        (
            "resnet56-4bfd9763.th",
            Architecture::CifarResNet56,
            [
                -3.067159407,
                -4.268225121,
                6.184438851,
                4.001884471,
                -0.510024561,
                -0.437562858,
                8.890502676,
                -5.679127257,
                -1.401942863,
                -3.719785487,
            ],
        ),
    ] {
        let Some(path) = crate::material(&format!("weights/{name}")) else {
            return;
        };
        let loaded = architecture
            .load_with(path, &Device::flex(), &f64_options())
            .unwrap();
        let output = loaded.model.forward(image(32, 32)).into_data();
        let distance = distance(&output.try_to_vec::<f64>().unwrap(), &expected);
        assert!(distance < 1e-8, "{name}: {distance:e}");
    }
}

/// SqueezeNet in f64 on 227 x 227 and on 227 x 60, where pooling rounds otherwise.
#[test]
fn published_squeezenet_gives_pytorchs_logits() {
    let Some(path) = crate::material("weights/squeezenet1_1_imagenet_caffe.safetensors") else {
        return;
    };
    let loaded = Architecture::SqueezeNet1_1
        .load_with(path, &Device::flex(), &f64_options())
        .unwrap();
    for (width, class, top, sum) in [
        (227, 904, 11.117325150316478, 2928.7170968746505),
        (60, 608, 10.174100728403895, 2954.240227254861),
    ] {
        let x = image(227, width) * 220.0 - 100.0;
        let output: Vec<f64> = loaded.model.forward(x).into_data().try_to_vec().unwrap();
        assert!((output[class] - top).abs() < 1e-8);
        assert!(output.iter().all(|&value| value <= output[class]));
        assert!((output.iter().sum::<f64>() - sum).abs() < 1e-6);
    }
}
