//! Times this project's methods in one process that stays warm: requests in, one line of JSON
//! each, answers out. `tests/bench/serve.py` is the same with PyTorch and Captum.
//!
//! ```text
//! cargo run --release --example bench -- WEIGHTS_DIR [flex | wgpu | cuda]
//! {"do": "measure", "network": "resnet50", "work": "gradient", "rows": 8, "repeats": 3}
//! ```
//!
//! The folder is what `tests/bench/networks.py` writes. Requests are described there.

mod counts;
mod memory;
mod vit;
mod works;

use std::{
    collections::HashMap,
    error::Error,
    fs,
    io::{BufRead, Write, stdin, stdout},
    path::{Path, PathBuf},
    time::Instant,
};

use burn::tensor::{DType, Device, Tensor, TensorData};
use safetensors::SafeTensors;
use saliency_core::{BatchSize, Goal, Graph, ModeCheck, NoiseDesign, Quadrature, Run, Target};
use saliency_models::{
    demo,
    scenes::Scenes,
    weights,
    zoo::{Architecture, Network},
};
use serde::Deserialize;
use serde_json::{Value, json};

type Failure = Box<dyn Error>;

/// One request.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct Request {
    #[serde(rename = "do")]
    task: String,
    network: String,
    work: String,
    rows: usize,
    side: usize,
    /// Rows in a batch; as many as fit where it is 0.
    batch: usize,
    samples: usize,
    seed: u64,
    layer: String,
    /// Of Integrated Gradients.
    rule: Quadrature,
    tolerance: Option<f64>,
    /// The most steps that it may lead to.
    most: usize,
    design: NoiseDesign,
    replicates: usize,
    /// f32, f16 or bf16.
    precision: String,
    repeats: usize,
    save: Option<PathBuf>,
}

impl Default for Request {
    fn default() -> Self {
        Request {
            task: "measure".into(),
            network: "resnet50".into(),
            work: "gradient".into(),
            rows: 1,
            side: 224,
            batch: 0,
            samples: 50,
            seed: 0,
            layer: String::new(),
            rule: Quadrature::default(),
            tolerance: None,
            most: 1600,
            design: NoiseDesign::Independent,
            replicates: 4,
            precision: "f32".into(),
            repeats: 1,
            save: None,
        }
    }
}

/// Networks by name, input size and floating-point type.
struct Server {
    folder: PathBuf,
    device: Device,
    graphs: HashMap<(String, usize, String), Graph>,
}

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or("usage: bench WEIGHTS_DIR [DEVICE]")?;
    let mut server = Server {
        folder: folder.into(),
        device: device(&args.next().unwrap_or_else(|| "flex".into()))?,
        graphs: HashMap::new(),
    };
    for line in stdin().lock().lines() {
        let answer = serde_json::from_str(&line?)
            .map_err(Failure::from)
            .and_then(|request| server.answer(&request))
            .unwrap_or_else(|error| json!({ "error": error.to_string() }));
        println!("{answer}");
        stdout().flush()?;
    }
    Ok(())
}

fn device(name: &str) -> Result<Device, Failure> {
    match name {
        "flex" => Ok(Device::flex()),
        #[cfg(feature = "wgpu")]
        "wgpu" => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(0)),
        other => Err(format!("this build has no device {other}").into()),
    }
}

fn float_type(name: &str) -> Result<DType, Failure> {
    match name {
        "f32" => Ok(DType::F32),
        "f16" => Ok(DType::F16),
        "bf16" => Ok(DType::BF16),
        other => Err(format!("unknown type {other}").into()),
    }
}

impl Server {
    fn answer(&mut self, request: &Request) -> Result<Value, Failure> {
        match request.task.as_str() {
            "load" => {
                self.graph(request)?;
                Ok(memory::now())
            }
            "measure" => self.measure(request),
            "sampling-error" => {
                let (graph, x, run) = self.prepare(request)?;
                let goal = Goal::resolve(&Target::Predicted, &run.forward(&graph, &x)?)?;
                counts::sampling_error(&graph, (&x, &goal), &run, request)
            }
            "memory" => Ok(memory::now()),
            "forget_peak" => Ok(memory::forget_peak()),
            "about" => Ok(json!({
                "threads": std::thread::available_parallelism()?.get(),
                "device": format!("{:?}", self.device),
            })),
            other => Err(format!("unknown request {other}").into()),
        }
    }

    fn measure(&mut self, request: &Request) -> Result<Value, Failure> {
        let (graph, x, run) = self.prepare(request)?;
        let outputs = run.forward(&graph, &x)?;
        let goal = Goal::resolve(&Target::Predicted, &outputs)?;
        let (mut seconds, mut found) = (Vec::new(), None);
        for _ in 0..request.repeats {
            drop(found.take());
            let start = Instant::now();
            let work = works::run(request, &graph, &x, (&outputs, &goal), &run)?;
            seconds.push(start.elapsed().as_secs_f64());
            found = Some(work);
        }
        let found = found.ok_or("repeats must be at least 1")?;
        if let Some(path) = &request.save {
            let bytes: Vec<u8> = found.values.iter().flat_map(|v| v.to_le_bytes()).collect();
            fs::write(path, bytes)?;
        }
        Ok(json!({
            "seconds": seconds, "shape": found.shape, "delta": found.delta,
            "gap": found.gap, "gradients": found.gradients, "taken": found.taken,
        }))
    }

    fn prepare(&mut self, request: &Request) -> Result<(Graph, Tensor<4>, Run<'static>), Failure> {
        let graph = self.graph(request)?.clone();
        let x = self.input(request)?.cast(float_type(&request.precision)?);
        let batch = match request.batch {
            0 => BatchSize::default(),
            rows => BatchSize::Rows(rows),
        };
        let run = Run::new().batch_size(batch).mode_check(ModeCheck::Skip);
        Ok((graph, x, run))
    }

    fn graph(&mut self, request: &Request) -> Result<&Graph, Failure> {
        let precision = request.precision.clone();
        let key = (request.network.clone(), request.side, precision);
        if !self.graphs.contains_key(&key) {
            let path = self.folder.join(format!("{}.safetensors", key.0));
            let graph = load(&key.0, &path, key.1, &self.device)?;
            let graph = match key.2 == "f32" {
                true => graph,
                false => graph.cast(float_type(&key.2)?),
            };
            self.graphs.insert(key.clone(), graph);
        }
        Ok(&self.graphs[&key])
    }

    /// The first rows of the file's images, again from the first where there are too few; scenes
    /// for the demo model.
    fn input(&self, request: &Request) -> Result<Tensor<4>, Failure> {
        if request.network == "demo" {
            let scenes = Scenes::new(demo::TEST_SEED);
            let rows: Result<Vec<_>, _> = (0..request.rows as u64)
                .map(|row| demo::preprocess().apply(&scenes.get(row).image, &self.device))
                .collect();
            return Ok(Tensor::cat(rows?, 0));
        }
        let bytes = fs::read(self.folder.join("inputs.safetensors"))?;
        let file = SafeTensors::deserialize(&bytes)?;
        let images = file.tensor(&format!("images-{}", request.side))?;
        let size = 4 * images.shape()[1..].iter().product::<usize>();
        let all: Vec<&[u8]> = images.data().chunks(size).collect();
        let values: Vec<f32> = (0..request.rows)
            .flat_map(|row| all[row % all.len()].as_chunks::<4>().0)
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();
        let shape = [request.rows, 3, request.side, request.side];
        Ok(Tensor::from_data(
            TensorData::new(values, shape),
            &self.device,
        ))
    }
}

fn load(name: &str, path: &Path, side: usize, device: &Device) -> Result<Graph, Failure> {
    let example = Tensor::zeros([1, 3, side, side], device);
    Ok(match name {
        "vit" => {
            let net = vit::ViT::new(device);
            let net = weights::load(net, path, &Default::default())?.model;
            Graph::trace(&net, vit::ViT::forward, &example)?
        }
        "demo" => Network::CifarResNet(demo::load(device)?).trace(&example)?,
        name => {
            let architecture: Architecture = name.parse()?;
            architecture.load(path, device)?.trace(&example)?
        }
    })
}
