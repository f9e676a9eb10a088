//! Grad-CAM of your own Burn module: trace it, name a layer, explain.
//!
//! `cargo run --release --example own_module --features flex`

use burn::{
    module::Module,
    nn::{
        BatchNorm, BatchNormConfig, Linear, LinearConfig,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor, activation::relu},
};
use saliency_core::{GradCam, Graph, Method, Reduction, Target};

#[derive(Module, Debug)]
struct Classifier {
    conv: Conv2d,
    norm: BatchNorm,
    head: Linear,
}

impl Classifier {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let features = relu(self.norm.forward(self.conv.forward(images)));
        self.head
            .forward(features.mean_dims(&[2, 3]).flatten::<2>(1, 3))
    }
}

fn main() -> Result<(), saliency_core::Error> {
    let device = Device::flex();
    let net = Classifier {
        conv: Conv2dConfig::new([3, 16], [3, 3]).init(&device),
        norm: BatchNormConfig::new(16).init(&device),
        head: LinearConfig::new(16, 10).init(&device),
    };
    let images = Tensor::<4>::ones([2, 3, 32, 32], &device);

    let graph = Graph::trace(&net, Classifier::forward, &images)?;
    for layer in graph.layers() {
        println!("{:<10} {:<12} {}", layer.name, layer.op, layer.shape);
    }
    let maps = GradCam::new()
        .layer("norm")
        .explain(&graph, images, Target::Predicted)?
        .maps(Reduction::Max)?;
    println!(
        "{} maps of {}x{}",
        maps.len(),
        maps[0].width(),
        maps[0].height()
    );
    Ok(())
}
