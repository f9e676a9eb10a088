//! Maps of the demo model in other floating-point types, f64 on the CPU being the reference.
//!
//! f16 has 11 bits and bf16 has 8, so each operation is off by 2e-4 or 2e-3 of its size, and
//! ReLUs whose input is that close to zero flip; class activation maps are means of many values
//! and lose least.

use std::io::Write;

use burn::tensor::{DType, Device, Tensor};
use saliency_core::{Graph, Method, Recipe, Target};
use saliency_models::{demo, scenes::Scenes};

use crate::{
    golden::relative_l2,
    parity::{announce, wgpu},
};

const METHODS: [&str; 4] = [
    "gradient",
    "integrated-gradients",
    "guided-backprop",
    "grad-cam",
];
/// The type, its name, and the largest relative L2 distance from f64 that is allowed.
const TYPES: [(DType, &str, f64); 3] = [
    (DType::F32, "f32", 1e-3),
    (DType::F16, "f16", 0.2),
    (DType::BF16, "bf16", 0.7),
];

fn traced(device: &Device) -> Graph {
    let example = Tensor::<4>::zeros([1, 3, 96, 96], device);
    let network = demo::load(device).unwrap();
    Graph::trace(&network, |net, x| net.forward(x), &example).unwrap()
}

fn maps(graph: &Graph, dtype: DType, device: &Device) -> Vec<Vec<f64>> {
    let x = Tensor::cat(
        (0..2)
            .map(|index| {
                let photo = Scenes::new(demo::TEST_SEED).get(index).image;
                demo::preprocess().apply(&photo, device).unwrap()
            })
            .collect(),
        0,
    );
    let x = x.cast(dtype);
    METHODS
        .iter()
        .map(|name| {
            let recipe = Recipe::named(name).unwrap();
            let map = recipe.explain(graph, x.clone(), Target::Class(3)).unwrap();
            map.values.cast(DType::F32).try_into_vec_as().unwrap()
        })
        .collect()
}

#[test]
fn precision_of_other_types() {
    let cpu = Device::flex();
    let reference = maps(&traced(&cpu).cast(DType::F64), DType::F64, &cpu);
    let mut table = format!("| type | device | {} |\n", METHODS.join(" | "));
    table += &format!("|---|---|{}\n", "---|".repeat(METHODS.len()));
    let mut places = vec![(cpu, "CPU (flex)")];
    places.extend(wgpu().map(|device| (device, "wgpu")));
    #[cfg(feature = "cuda")]
    places.push((Device::cuda(0), "CUDA"));
    for (device, place) in places {
        let graph = traced(&device);
        for (dtype, name, allowed) in TYPES {
            if !device.supports_dtype(dtype) {
                announce(&format!("SKIPPED: {place} does not compute in {name}"));
                continue;
            }
            let found = maps(&graph.cast(dtype), dtype, &device);
            let distances: Vec<f64> = found
                .iter()
                .zip(&reference)
                .map(|(got, want)| relative_l2(got, want))
                .collect();
            let cells: Vec<String> = distances.iter().map(|d| format!("{d:.1e}")).collect();
            table += &format!("| {name} | {place} | {} |\n", cells.join(" | "));
            for (distance, method) in distances.iter().zip(METHODS) {
                assert!(
                    *distance <= allowed,
                    "{method} in {name} on {place}: {distance}"
                );
            }
        }
    }
    if let Some(folder) = std::env::var_os("SALIENCY_PARITY_OUT") {
        std::fs::create_dir_all(&folder).unwrap();
        let path = std::path::Path::new(&folder).join("precision.md");
        std::fs::write(path, &table).unwrap();
    }
    std::io::stderr().write_all(table.as_bytes()).unwrap();
}
