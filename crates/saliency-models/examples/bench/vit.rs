//! ViT-S/16 from Burn's own modules: the network `vit` of `tests/bench/networks.py`.

use burn::{
    module::{Module, Param},
    nn::{
        LayerNorm, LayerNormConfig, Linear, LinearConfig,
        conv::{Conv2d, Conv2dConfig},
        transformer::{TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput},
    },
    tensor::{Device, Tensor},
};

const WIDTH: usize = 384;

#[derive(Module, Debug)]
pub struct ViT {
    patches: Conv2d,
    token: Param<Tensor<3>>,
    places: Param<Tensor<3>>,
    encoder: TransformerEncoder,
    norm: LayerNorm,
    head: Linear,
}

impl ViT {
    pub fn new(device: &Device) -> Self {
        let tokens = |count| Param::from_tensor(Tensor::zeros([1, count, WIDTH], device));
        ViT {
            patches: Conv2dConfig::new([3, WIDTH], [16, 16])
                .with_stride([16, 16])
                .init(device),
            token: tokens(1),
            places: tokens(1 + 14 * 14),
            encoder: TransformerEncoderConfig::new(WIDTH, 4 * WIDTH, 6, 12)
                .with_norm_first(true)
                .init(device),
            norm: LayerNormConfig::new(WIDTH).init(device),
            head: LinearConfig::new(WIDTH, 1000).init(device),
        }
    }

    pub fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let rows = x.dims()[0];
        let patches: Tensor<3> = self.patches.forward(x).flatten(2, 3);
        let token = self.token.val().expand([rows, 1, WIDTH]);
        let tokens = Tensor::cat(vec![token, patches.swap_dims(1, 2)], 1) + self.places.val();
        let tokens = self.encoder.forward(TransformerEncoderInput::new(tokens));
        let token: Tensor<2> = tokens.narrow(1, 0, 1).squeeze_dim(1);
        self.head.forward(self.norm.forward(token))
    }
}
