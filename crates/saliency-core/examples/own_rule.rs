//! A backward rule of your own: gradients that pass a ReLU only where they are positive and the
//! unit was active (Guided Backprop), in ten lines.
//!
//! `cargo run --release --example own_rule --features flex`

use burn::{
    nn::LinearConfig,
    tensor::{Device, Tensor, activation::relu},
};
use saliency_core::{
    Error, Graph,
    graph::{Op, Site, Unary, Value},
};

fn guided(site: &Site, gradient: &Value) -> Result<Option<Vec<Option<Value>>>, Error> {
    Ok(match site.node.op {
        Op::Unary(Unary::Relu) => {
            let passed = site.output.where_above(0.0, &gradient.relu());
            Some(vec![Some(passed)])
        }
        // Every other operation keeps its ordinary derivative.
        _ => None,
    })
}

fn main() -> Result<(), Error> {
    let device = Device::flex();
    let linear = LinearConfig::new(4, 3).init(&device);
    let input = Tensor::<2>::from_floats([[1.0, -2.0, 0.5, 3.0]], &device);
    let graph = Graph::trace(&linear, |net, x| relu(net.forward(x)), &input)?;

    let activations = graph.activations(input.into())?;
    let output = graph.output();
    let class = Tensor::<2>::from_floats([[0.0, 1.0, 0.0]], &device);
    let found = graph.backward(
        &activations,
        vec![(output, class.into())],
        &guided,
        &[graph.input()],
    )?;
    match &found[0] {
        Some(map) => println!("{:?}", map.to_vec()?),
        None => println!("nothing reaches the input"),
    }
    Ok(())
}
