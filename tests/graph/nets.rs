//! Small networks of many kinds, as their users would write them.

use burn::{
    module::{Module, ModuleMapper, Param},
    nn::{
        BatchNorm, BatchNormConfig, BiLstm, BiLstmConfig, Embedding, EmbeddingConfig, GroupNorm,
        GroupNormConfig, Gru, GruConfig, InstanceNorm, InstanceNormConfig, LayerNorm,
        LayerNormConfig, Linear, LinearConfig, Lstm, LstmConfig, PRelu, PReluConfig,
        PaddingConfig1d, PaddingConfig2d, PaddingConfig3d, RmsNorm, RmsNormConfig,
        conv::{
            Conv1d, Conv1dConfig, Conv2d, Conv2dConfig, Conv3d, Conv3dConfig, ConvTranspose2d,
            ConvTranspose2dConfig,
        },
        interpolate::{Interpolate2d, Interpolate2dConfig, InterpolateMode},
        pool::{
            AdaptiveAvgPool2dConfig, AvgPool1dConfig, AvgPool2dConfig, MaxPool1dConfig,
            MaxPool2dConfig,
        },
        transformer::{TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput},
    },
    tensor::{Device, Tensor, TensorData, activation::*, s},
};
use saliency_core::noise::standard_normal;

/// The same weights on every device and in every run, of a size that keeps activations so.
struct Seeded(usize);

impl ModuleMapper for Seeded {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.0 += 1;
        let seed = self.0;
        param.map(|tensor| {
            let dims = tensor.dims();
            let elements: usize = dims.iter().product();
            let noise = standard_normal(5, seed, elements);
            let scale = (1.5 * dims[0] as f32 / elements as f32).sqrt();
            let value = |noise: f32| match D {
                // Scales and variances must be positive, and biases may be.
                1 => 0.2 + 0.5 * noise.abs(),
                _ => scale * noise,
            };
            let values: Vec<f32> = noise.into_iter().map(value).collect();
            Tensor::from_data(TensorData::new(values, dims), &tensor.device())
        })
    }
}

pub fn seeded<M: Module>(net: M) -> M {
    net.map(&mut Seeded(0)).valid()
}

fn conv(from: usize, to: usize, kernel: usize, stride: usize, device: &Device) -> Conv2d {
    grouped(from, to, kernel, stride, 1, device)
}

fn grouped(
    from: usize,
    to: usize,
    kernel: usize,
    stride: usize,
    groups: usize,
    device: &Device,
) -> Conv2d {
    let pad = kernel / 2;
    Conv2dConfig::new([from, to], [kernel; 2])
        .with_stride([stride; 2])
        .with_groups(groups)
        .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
        .init(device)
}

fn norm(channels: usize, device: &Device) -> BatchNorm {
    BatchNormConfig::new(channels).init(device)
}

fn pooled(x: Tensor<4>) -> Tensor<2> {
    AdaptiveAvgPool2dConfig::new([1, 1])
        .init()
        .forward(x)
        .flatten(1, 3)
}

/// Inverted residual blocks: expansion, depthwise convolution, squeeze and excitation.
#[derive(Module, Debug)]
pub struct MobileNet {
    stem: Conv2d,
    expand: Conv2d,
    norm: BatchNorm,
    depthwise: Conv2d,
    squeeze: Linear,
    excite: Linear,
    project: Conv2d,
    project_norm: BatchNorm,
    head: Linear,
}

impl MobileNet {
    pub fn new(device: &Device) -> Self {
        MobileNet {
            stem: conv(3, 6, 3, 2, device),
            expand: conv(6, 12, 1, 1, device),
            norm: norm(12, device),
            depthwise: grouped(12, 12, 3, 1, 12, device),
            squeeze: LinearConfig::new(12, 3).init(device),
            excite: LinearConfig::new(3, 12).init(device),
            project: conv(12, 6, 1, 1, device),
            project_norm: norm(6, device),
            head: LinearConfig::new(6, 4).init(device),
        }
    }

    pub fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = hard_swish(self.stem.forward(x));
        let h = self.norm.forward(self.expand.forward(x.clone()));
        let h = relu(self.depthwise.forward(h.clamp(0.0, 6.0)));
        let scale = relu(self.squeeze.forward(pooled(h.clone())));
        let scale = hard_sigmoid(self.excite.forward(scale), 1.0 / 6.0, 0.5);
        let h = h * scale.unsqueeze_dims::<4>(&[2, 3]);
        let x = self.project_norm.forward(self.project.forward(h)) + x;
        self.head.forward(pooled(x))
    }
}

/// Every layer sees all before it.
#[derive(Module, Debug)]
pub struct DenseNet {
    stem: Conv2d,
    norms: Vec<BatchNorm>,
    convs: Vec<Conv2d>,
    head: Linear,
}

impl DenseNet {
    pub fn new(device: &Device) -> Self {
        let sizes = [4, 7, 10];
        DenseNet {
            stem: conv(3, 4, 3, 1, device),
            norms: sizes.map(|size| norm(size, device)).to_vec(),
            convs: sizes.map(|size| conv(size, 3, 3, 1, device)).to_vec(),
            head: LinearConfig::new(13, 4).init(device),
        }
    }

    pub fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let mut features = vec![self.stem.forward(x)];
        for (norm, conv) in self.norms.iter().zip(&self.convs) {
            let all = Tensor::cat(features.clone(), 1);
            features.push(conv.forward(relu(norm.forward(all))));
        }
        let all = Tensor::cat(features, 1);
        let x = AvgPool2dConfig::new([2, 2]).init().forward(all);
        self.head.forward(pooled(x))
    }
}

/// Parallel branches with kernels of several sizes.
#[derive(Module, Debug)]
pub struct Inception {
    one: Conv2d,
    three: Conv2d,
    wide: Conv2d,
    tall: Conv2d,
    pool: Conv2d,
    head: Linear,
}

impl Inception {
    pub fn new(device: &Device) -> Self {
        let strip = |kernel: [usize; 2]| {
            let [h, w] = kernel.map(|k| k / 2);
            Conv2dConfig::new([3, 3], kernel)
                .with_padding(PaddingConfig2d::Explicit(h, w, h, w))
                .init(device)
        };
        Inception {
            one: conv(3, 3, 1, 1, device),
            three: conv(3, 3, 3, 1, device),
            wide: strip([1, 5]),
            tall: strip([5, 1]),
            pool: conv(3, 3, 1, 1, device),
            head: LinearConfig::new(12, 4).init(device),
        }
    }

    pub fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let average = AvgPool2dConfig::new([3, 3])
            .with_strides([1, 1])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .with_count_include_pad(false)
            .init();
        let branches = vec![
            self.one.forward(x.clone()),
            self.three.forward(x.clone()),
            self.tall.forward(self.wide.forward(x.clone())),
            self.pool.forward(average.forward(x)),
        ];
        let x = relu(Tensor::cat(branches, 1));
        let x = MaxPool2dConfig::new([3, 3])
            .with_strides([2, 2])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .init()
            .forward(x);
        self.head.forward(pooled(x))
    }
}

/// Down, up again by a transposed convolution and by interpolation, and across.
#[derive(Module, Debug)]
pub struct UNet {
    down: Conv2d,
    bottom: Conv2d,
    group: GroupNorm,
    up: ConvTranspose2d,
    instance: InstanceNorm,
    enlarge: Interpolate2d,
    across: Conv2d,
    slope: PRelu,
    out: Conv2d,
}

impl UNet {
    pub fn new(device: &Device) -> Self {
        UNet {
            down: conv(3, 4, 3, 1, device),
            bottom: conv(4, 6, 3, 2, device),
            group: GroupNormConfig::new(2, 6).init(device),
            up: ConvTranspose2dConfig::new([6, 4], [2, 2])
                .with_stride([2, 2])
                .init(device),
            instance: InstanceNormConfig::new(4).init(device),
            enlarge: Interpolate2dConfig::new()
                .with_output_size(Some([10, 12]))
                .with_mode(InterpolateMode::Linear)
                .init(),
            across: conv(14, 4, 3, 1, device),
            slope: PReluConfig::new().init(device),
            out: conv(4, 4, 1, 1, device),
        }
    }

    pub fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let side = leaky_relu(self.down.forward(x), 0.1);
        let deep = self.group.forward(self.bottom.forward(side.clone()));
        let up = self.instance.forward(self.up.forward(silu(deep.clone())));
        let large = self.enlarge.forward(deep);
        let x = self.across.forward(Tensor::cat(vec![side, up, large], 1));
        self.out
            .forward(self.slope.forward(x))
            .mean_dims(&[2, 3])
            .flatten(1, 3)
    }
}

/// Plain convolutions, pools, and layers on the flattened picture.
#[derive(Module, Debug)]
pub struct Vgg {
    convs: Vec<Conv2d>,
    hidden: Linear,
    head: Linear,
}

impl Vgg {
    pub fn new(device: &Device) -> Self {
        Vgg {
            convs: vec![conv(3, 4, 3, 1, device), conv(4, 6, 3, 1, device)],
            hidden: LinearConfig::new(6 * 2 * 3, 8).init(device),
            head: LinearConfig::new(8, 4).init(device),
        }
    }

    pub fn forward(&self, mut x: Tensor<4>) -> Tensor<2> {
        for conv in &self.convs {
            x = MaxPool2dConfig::new([2, 2])
                .init()
                .forward(relu(conv.forward(x)));
        }
        let x: Tensor<2> = x.flatten(1, 3);
        self.head.forward(relu(self.hidden.forward(x)))
    }
}

/// A time series [N, T, F] under dilated convolutions.
#[derive(Module, Debug)]
pub struct Series {
    first: Conv1d,
    second: Conv1d,
    norm: BatchNorm,
    head: Linear,
}

impl Series {
    pub fn new(device: &Device) -> Self {
        Series {
            first: Conv1dConfig::new(3, 6, 3)
                .with_padding(PaddingConfig1d::Explicit(2, 2))
                .with_dilation(2)
                .init(device),
            second: Conv1dConfig::new(6, 6, 3).with_groups(2).init(device),
            norm: norm(6, device),
            head: LinearConfig::new(6, 4).init(device),
        }
    }

    pub fn forward(&self, x: Tensor<3>) -> Tensor<2> {
        let x = tanh(self.first.forward(x.swap_dims(1, 2)));
        let x = MaxPool1dConfig::new(2).init().forward(x);
        let x = gelu(self.norm.forward(self.second.forward(x)));
        let x = AvgPool1dConfig::new(2).init().forward(x);
        self.head.forward(x.mean_dim(2).squeeze_dim(2))
    }
}

/// A volume [N, C, D, H, W].
#[derive(Module, Debug)]
pub struct Volume {
    first: Conv3d,
    second: Conv3d,
    norm: BatchNorm,
    head: Linear,
}

impl Volume {
    pub fn new(device: &Device) -> Self {
        Volume {
            first: Conv3dConfig::new([2, 4], [3, 3, 3])
                .with_padding(PaddingConfig3d::Explicit(1, 1, 1))
                .init(device),
            second: Conv3dConfig::new([4, 4], [2, 2, 2])
                .with_stride([2, 2, 2])
                .init(device),
            norm: norm(4, device),
            head: LinearConfig::new(4, 4).init(device),
        }
    }

    pub fn forward(&self, x: Tensor<5>) -> Tensor<2> {
        let x = relu(self.norm.forward(self.first.forward(x)));
        let x = softplus(self.second.forward(x), 1.0);
        self.head
            .forward(x.mean_dims(&[2, 3, 4]).flatten::<2>(1, 4))
    }
}

#[derive(Module, Debug)]
pub struct LstmNet {
    lstm: Lstm,
    head: Linear,
}

impl LstmNet {
    pub fn new(device: &Device) -> Self {
        LstmNet {
            lstm: LstmConfig::new(3, 5, true).init(device),
            head: LinearConfig::new(5, 4).init(device),
        }
    }

    pub fn forward(&self, x: Tensor<3>) -> Tensor<2> {
        let (_, state) = self.lstm.forward(x, None);
        self.head.forward(state.hidden)
    }
}

#[derive(Module, Debug)]
pub struct BiLstmNet {
    lstm: BiLstm,
    head: Linear,
}

impl BiLstmNet {
    pub fn new(device: &Device) -> Self {
        BiLstmNet {
            lstm: BiLstmConfig::new(3, 5, true).init(device),
            head: LinearConfig::new(10, 4).init(device),
        }
    }

    pub fn forward(&self, x: Tensor<3>) -> Tensor<2> {
        let (outputs, _) = self.lstm.forward(x, None);
        self.head.forward(outputs.max_dim(1).squeeze_dim(1))
    }
}

#[derive(Module, Debug)]
pub struct GruNet {
    gru: Gru,
    norm: RmsNorm,
    head: Linear,
}

impl GruNet {
    pub fn new(device: &Device) -> Self {
        GruNet {
            gru: GruConfig::new(3, 5, true).init(device),
            norm: RmsNormConfig::new(5).init(device),
            head: LinearConfig::new(5, 4).init(device),
        }
    }

    pub fn forward(&self, x: Tensor<3>) -> Tensor<2> {
        let outputs = self.gru.forward(x, None);
        let last: Tensor<2> = outputs.slice(s![.., -1, ..]).squeeze_dim(1);
        self.head.forward(self.norm.forward(last))
    }
}

/// Patches, a class token, places, an encoder.
#[derive(Module, Debug)]
pub struct ViT {
    patches: Conv2d,
    class: Param<Tensor<3>>,
    places: Param<Tensor<3>>,
    encoder: TransformerEncoder,
    norm: LayerNorm,
    head: Linear,
}

impl ViT {
    pub fn new(device: &Device) -> Self {
        Self::with_grid(2, 3, device)
    }

    /// For pictures of so many patches of four by four.
    pub fn with_grid(high: usize, wide: usize, device: &Device) -> Self {
        let token = |tokens| Param::from_tensor(Tensor::ones([1, tokens, 8], device));
        ViT {
            patches: Conv2dConfig::new([3, 8], [4, 4])
                .with_stride([4, 4])
                .init(device),
            class: token(1),
            places: token(high * wide + 1),
            encoder: TransformerEncoderConfig::new(8, 16, 2, 2)
                .with_norm_first(true)
                .init(device),
            norm: LayerNormConfig::new(8).init(device),
            head: LinearConfig::new(8, 4).init(device),
        }
    }

    pub fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let rows = x.dims()[0];
        let patches: Tensor<3> = self.patches.forward(x).flatten(2, 3);
        let class = self.class.val().expand([rows, 1, 8]);
        let tokens = Tensor::cat(vec![class, patches.swap_dims(1, 2)], 1);
        let tokens = tokens + self.places.val();
        let tokens = self.encoder.forward(TransformerEncoderInput::new(tokens));
        let class: Tensor<2> = tokens.narrow(1, 0, 1).squeeze_dim(1);
        self.head.forward(self.norm.forward(class))
    }
}

/// Words [N, T], given as numbers.
#[derive(Module, Debug)]
pub struct Words {
    embedding: Embedding,
    encoder: TransformerEncoder,
    head: Linear,
}

impl Words {
    pub fn new(device: &Device) -> Self {
        Words {
            embedding: EmbeddingConfig::new(10, 8).init(device),
            encoder: TransformerEncoderConfig::new(8, 16, 2, 1).init(device),
            head: LinearConfig::new(8, 4).init(device),
        }
    }

    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let tokens = self.embedding.forward(x.int());
        let tokens = self.encoder.forward(TransformerEncoderInput::new(tokens));
        self.head.forward(tokens.mean_dim(1).squeeze_dim(1))
    }
}
