//! A small vision transformer for tests.

use burn::{
    module::{Module, Param},
    nn::{
        Gelu, LayerNorm, LayerNormConfig, Linear, LinearConfig,
        attention::{MhaInput, MultiHeadAttention, MultiHeadAttentionConfig},
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor, TensorData},
};

use crate::{Graph, noise::standard_normal};

/// Two blocks on a grid of 4 x 4 patches of two by two pixels.
#[derive(Module, Debug)]
pub struct Vit {
    patches: Conv2d,
    class: Option<Param<Tensor<3>>>,
    places: Param<Tensor<3>>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
}

#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    attention: MultiHeadAttention,
    norm2: LayerNorm,
    up: Linear,
    down: Linear,
}

impl Block {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let y = self.norm1.forward(x.clone());
        let x = x + self.attention.forward(MhaInput::self_attn(y)).context;
        let y = Gelu::new().forward(self.up.forward(self.norm2.forward(x.clone())));
        x + self.down.forward(y)
    }
}

impl Vit {
    pub const HEADS: usize = 2;
    const WIDTH: usize = 8;

    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let rows = x.dims()[0];
        let x = self.patches.forward(x).flatten::<3>(2, 3).swap_dims(1, 2);
        let x = match &self.class {
            Some(class) => {
                let class = class.val().expand([rows, 1, Self::WIDTH]);
                Tensor::cat(vec![class, x], 1)
            }
            None => x,
        };
        let x = x + self.places.val();
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x));
        let x = self.norm.forward(x);
        let x = match self.class {
            Some(_) => x.narrow(1, 0, 1),
            None => x.mean_dim(1),
        };
        self.head.forward(x.squeeze_dim::<2>(1))
    }
}

/// The network with seeded weights, traced.
pub fn vit_graph(class: bool) -> Graph {
    let device = Device::flex();
    let width = Vit::WIDTH;
    let block = || Block {
        norm1: LayerNormConfig::new(width).init(&device),
        attention: MultiHeadAttentionConfig::new(width, Vit::HEADS)
            .with_dropout(0.0)
            .init(&device),
        norm2: LayerNormConfig::new(width).init(&device),
        up: LinearConfig::new(width, 2 * width).init(&device),
        down: LinearConfig::new(2 * width, width).init(&device),
    };
    let drawn = |shape: [usize; 3], sample| {
        let values = standard_normal(7, sample, shape.iter().product());
        Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), &device))
    };
    let tokens = if class { 17 } else { 16 };
    let vit = Vit {
        patches: Conv2dConfig::new([3, width], [2, 2])
            .with_stride([2, 2])
            .init(&device),
        class: class.then(|| drawn([1, 1, width], 0)),
        places: drawn([1, tokens, width], 1),
        blocks: vec![block(), block()],
        norm: LayerNormConfig::new(width).init(&device),
        head: LinearConfig::new(width, 3).init(&device),
    };
    let graph = Graph::trace(&vit.valid(), |m, x| m.forward(x), &picture(1)).unwrap();
    // The initial weights are drawn from a generator that other tests share.
    graph
        .randomised(&graph.modules(), 3, crate::graph::Randomisation::Normal)
        .unwrap()
}

pub fn picture(rows: usize) -> Tensor<4> {
    let values = standard_normal(5, 0, rows * 3 * 64);
    Tensor::from_data(TensorData::new(values, [rows, 3, 8, 8]), &Device::flex())
}
