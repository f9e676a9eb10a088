//! A small convolutional network with BatchNorm and a residual branch, and comparisons.

use burn::{
    module::{Module, ModuleMapper, Param, RunningState},
    nn::{
        BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{DType, Device, Tensor, TensorData, activation},
};

use crate::{BatchSize, Graph, LayerMethod, Method, Model, Run, Target, noise::standard_normal};

#[derive(Module, Debug)]
pub struct Net {
    stem: Conv2d,
    norm: BatchNorm,
    branch: Conv2d,
    head: Linear,
    smooth: bool,
}

impl Net {
    fn build(device: &Device, bias: bool, smooth: bool) -> Self {
        let conv = |from, to| {
            Conv2dConfig::new([from, to], [3, 3])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .with_bias(bias)
                .init(device)
        };
        let mut net = Net {
            stem: conv(3, 6),
            norm: BatchNormConfig::new(6).init(device),
            branch: conv(6, 6),
            head: LinearConfig::new(6, 4).with_bias(bias).init(device),
            smooth,
        };
        net.stem.weight = seeded(net.stem.weight.dims(), 1, 0.4, device);
        net.branch.weight = seeded(net.branch.weight.dims(), 2, 0.3, device);
        net.head.weight = seeded(net.head.weight.dims(), 3, 1.0, device);
        if bias {
            net.stem.bias = Some(seeded([6], 7, 0.2, device));
            net.branch.bias = Some(seeded([6], 8, 0.2, device));
            net.head.bias = Some(seeded([4], 9, 0.2, device));
            net.norm.gamma = seeded([6], 4, 1.0, device);
            net.norm.running_mean =
                RunningState::new(Tensor::from_data(normal([6], 5, 0.5), device));
            net.norm.running_var =
                RunningState::new(Tensor::from_data(normal([6], 6, 1.0), device).abs() + 0.5);
        }
        net
    }

    pub fn relu(device: &Device) -> Self {
        Self::build(device, true, false).valid()
    }

    pub fn smooth(device: &Device) -> Self {
        Self::build(device, true, true).valid()
    }

    pub fn bias_free(device: &Device) -> Self {
        Self::build(device, false, false).valid()
    }

    pub fn training(device: &Device) -> Self {
        Self::build(device, true, false)
    }

    pub fn cast_f64(self) -> Self {
        struct Cast;
        impl ModuleMapper for Cast {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                param.map(|t| t.cast(DType::F64))
            }
        }
        let mut net = self.map(&mut Cast);
        let cast =
            |state: &RunningState<Tensor<1>>| RunningState::new(state.value().cast(DType::F64));
        net.norm.running_mean = cast(&net.norm.running_mean);
        net.norm.running_var = cast(&net.norm.running_var);
        net
    }

    fn act(&self, x: Tensor<4>) -> Tensor<4> {
        match self.smooth {
            true => x.tanh(),
            false => activation::relu(x),
        }
    }
}

impl Model<4> for Net {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.act(self.norm.forward(self.stem.forward(x)));
        let x = self.act(self.branch.forward(x.clone()) + x);
        let pooled: Tensor<2> = x.mean_dims(&[2, 3]).flatten(1, 3);
        self.head.forward(pooled)
    }
}

fn normal<const D: usize>(shape: [usize; D], sample: usize, scale: f32) -> TensorData {
    let values = standard_normal(99, sample, shape.iter().product());
    TensorData::new(values.iter().map(|v| v * scale).collect::<Vec<_>>(), shape)
}

pub fn seeded<const D: usize>(
    shape: [usize; D],
    sample: usize,
    scale: f32,
    device: &Device,
) -> Param<Tensor<D>> {
    Param::from_tensor(Tensor::from_data(normal(shape, sample, scale), device))
}

pub fn image(rows: usize, sample: usize) -> Tensor<4> {
    Tensor::from_data(normal([rows, 3, 9, 8], 100 + sample, 1.0), &Device::flex())
}

pub fn relative_error<const D: usize>(got: Tensor<D>, want: Tensor<D>) -> f64 {
    assert_eq!(got.dims(), want.dims());
    crate::host::relative_l2(&got, &want).unwrap()
}

pub fn assert_close<const D: usize>(got: Tensor<D>, want: Tensor<D>, tolerance: f64) {
    let error = relative_error(got, want);
    assert!(error <= tolerance, "relative L2 error {error:e}");
}

/// `Net::relu`, traced.
pub fn net_graph() -> Graph {
    let net = Net::relu(&Device::flex());
    Graph::trace(&net, |m, x| m.forward(x), &image(1, 0)).unwrap()
}

/// `Net::smooth` in f64, traced.
pub fn smooth_graph() -> Graph {
    let net = Net::smooth(&Device::flex()).cast_f64();
    let x = image(1, 0).cast(DType::F64);
    Graph::trace(&net, |m, x| m.forward(x), &x).unwrap()
}

/// A layer method gives the same values however its rows and steps are split.
pub fn assert_layer_splits_agree(method: &impl LayerMethod<4>, tolerance: f64) {
    let graph = net_graph();
    let explain = |rows| {
        let run = Run::new().batch_size(BatchSize::Rows(rows));
        let found = method.explain_layer_with(&graph, image(3, 6), &Target::Predicted, &run);
        found.unwrap().tensor::<4>().unwrap()
    };
    let whole = explain(1000);
    for rows in [1, 2, 5, 7] {
        assert_close(explain(rows), whole.clone(), tolerance);
    }
}

/// As [`assert_splits_agree`], on the traced network.
pub fn assert_graph_splits_agree(method: &impl Method<4>, tolerance: f64) {
    splits_agree(method, &net_graph(), tolerance);
}

pub fn assert_splits_agree(method: &impl Method<4>, tolerance: f64) {
    splits_agree(method, &Net::relu(&Device::flex()), tolerance);
}

fn splits_agree(method: &impl Method<4>, model: &dyn Model<4>, tolerance: f64) {
    let explain = |rows| {
        let run = Run::new().batch_size(BatchSize::Rows(rows));
        method
            .explain_with(model, image(5, 6), &Target::Predicted, &run)
            .unwrap()
            .values
    };
    let whole = explain(1000);
    for rows in [1, 2, 3, 7, 11] {
        assert_close(explain(rows), whole.clone(), tolerance);
    }
}
