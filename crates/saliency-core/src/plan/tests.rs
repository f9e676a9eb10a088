use burn::tensor::{Device, Tensor};

use super::*;
use crate::{
    Gradient, Graph, Method, Model,
    methods::testing::{Net, assert_close, image},
};

fn host<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.clone().try_into_vec_as().unwrap()
}

/// Every instruction set against Burn's own operations.
#[test]
fn a_plan_gives_the_graphs_outputs_and_gradients() {
    let net = Net::relu(&Device::flex());
    let graph = Graph::trace(&net, |m, x| m.forward(x), &image(1, 0)).unwrap();
    for isa in Isa::all() {
        let plan = Plan::with(&graph, isa).expect("a plan");
        for rows in [1, 2, 5] {
            let x = image(rows, 3);
            let (outputs, tape) = plan.forward_taped(&host(&x), rows);
            let outputs =
                Tensor::<1>::from_floats(&outputs[..], &Device::flex()).reshape([rows, 4]);
            assert_close(outputs, net.forward(x.clone()), 1e-5);
            let seed: Vec<f32> = [0.0, 1.0, 0.0, 0.0].repeat(rows);
            let got = plan.backward(&tape, &seed, ReluRule::Derivative);
            let got = Tensor::<1>::from_floats(&got[..], &Device::flex()).reshape(x.dims());
            let want = Gradient.explain(&net, x, 1).unwrap().values;
            assert_close(got, want, 1e-5);
        }
    }
}
