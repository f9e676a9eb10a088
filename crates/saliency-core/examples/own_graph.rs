//! A model written as a graph by hand, for what is no Burn module or cannot be traced: then
//! every method works on it, those that look at layers too.
//!
//! `cargo run --release --example own_graph --features flex`

use burn::tensor::{Device, Distribution, Tensor};
use saliency_core::{
    Error, GradCam, GraphBuilder, Lrp, Method,
    graph::{Op, Reduce, Size, Unary, Window},
};

fn main() -> Result<(), Error> {
    let device = Device::flex();
    let random = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Default, &device);
    let images = random([2, 3, 32, 32]);

    let mut net = GraphBuilder::new(&images);
    let filters = net.parameter("conv.weight", random([8, 3, 3, 3]) - 0.5)?;
    let matrix = random([1, 1, 8, 10]).reshape([8, 10]);
    let matrix = net.parameter("head.weight", matrix)?;
    let window = Window {
        stride: vec![1, 1],
        padding: vec![(1, 1), (1, 1)],
        dilation: vec![1, 1],
    };
    let conv = net.add(Op::Conv { window, groups: 1 }, &[net.input(), filters])?;
    let relu = net.add(Op::Unary(Unary::Relu), &[conv])?;
    let mean = net.add(Op::Reduce(Reduce::Mean, vec![2, 3]), &[relu])?;
    let flat = net.reshape(mean, &[Size::Rows(1), Size::Fixed(8)])?;
    let logits = net.add(Op::Linear, &[flat, matrix])?;
    net.name(relu, "features")?;
    let graph = net.build(logits)?;

    for layer in graph.layers() {
        println!("{:<10} {:<8} {}", layer.name, layer.op, layer.shape);
    }
    let cam = GradCam::new()
        .layer("features")
        .explain(&graph, images.clone(), 3)?;
    let lrp = Lrp::epsilon_plus().explain(&graph, images, 3)?;
    println!("{:?}, {:?}", cam.values.dims(), lrp.values.dims());
    Ok(())
}
