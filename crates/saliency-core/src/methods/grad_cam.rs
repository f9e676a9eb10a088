use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::cam::cam_builders;
use crate::{
    attribution::Outcome,
    error::Error,
    graph::Layer,
    method::Method,
    model::Model,
    recipe::{Recipe, Registered},
    run::Run,
    target::Goal,
    upsample::Resize,
};

/// The channels of a layer, weighted by their mean gradients.
///
/// For a layer with activations A `[N, C, places]` and gradients G = d f / d A:
/// w_c = mean over places of G_c, map = ReLU(sum_c w_c A_c), brought to the input's positions.
/// Values have one channel: `[N, 1, H, W]` for images `[N, C, H, W]`, `[N, T, 1]` for series
/// `[N, T, F]`; where the model itself moves the channels to the front (`[N, H, W, C]`), that
/// axis has size one. Selvaraju et al., "Grad-CAM: Visual Explanations from
/// Deep Networks via Gradient-based Localization" (2017), <https://arxiv.org/abs/1610.02391>.
///
/// The default layer is the last one that has positions; the mean of several is taken after
/// they are brought to the input's size, as they are (pytorch-grad-cam scales each to 0..1
/// before). Tokens `[N, T, width]` of a vision transformer are laid out as the grid of its
/// patches, without the class and register tokens before them.
///
/// `grad-cam-signed` leaves out the ReLU, as Captum's `LayerGradCam` does by default.
///
/// ```
/// use burn::{nn::{LinearConfig, conv::Conv2dConfig}, tensor::{Device, Tensor, activation::relu}};
/// use saliency_core::{GradCam, Graph, Method};
///
/// let device = Device::flex();
/// let net = (Conv2dConfig::new([3, 8], [3, 3]).init(&device), LinearConfig::new(8, 10).init(&device));
/// let x = Tensor::<4>::ones([2, 3, 16, 16], &device);
/// let graph = Graph::trace(&net, |(conv, head), x| {
///     head.forward(relu(conv.forward(x)).mean_dims(&[2, 3]).flatten::<2>(1, 3))
/// }, &x)?;
/// let map = GradCam::new().layer("relu_1").explain(&graph, x, 3)?;
/// assert_eq!(map.values.dims(), [2, 1, 16, 16]);
/// assert!(map.to_vec()?.iter().all(|&v| v >= 0.0));
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GradCam {
    /// The layers.
    pub layers: Vec<Layer>,
    /// Whether only the positive part of each layer's map is kept.
    pub relu: bool,
    /// How maps are brought to the input's positions.
    pub resize: Resize,
}

impl Default for GradCam {
    fn default() -> Self {
        GradCam {
            layers: vec![Layer::default()],
            relu: true,
            resize: Resize::default(),
        }
    }
}

cam_builders!(GradCam = "grad-cam");

impl Registered for GradCam {
    fn is_non_negative(&self) -> bool {
        self.relu
    }
}

impl<const D: usize> Method<D> for GradCam {
    fn recipe(&self) -> Recipe {
        Recipe::GradCam(self.clone())
    }

    fn validate(&self) -> Result<(), Error> {
        self.cam().validate()
    }

    fn reads(&self) -> &[crate::Layer] {
        &self.layers
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        self.cam().of_gradients(model, input, goal, run, |a, g| {
            Ok((a * g.mean_dim(2)).sum_dim(1))
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::{
        module::Module,
        nn::{Linear, LinearConfig},
        tensor::{DType, Device},
    };

    use super::*;
    use crate::{
        Graph,
        methods::{
            cam::testing::{Reused, assert_splits_agree, assert_values, by_channel, graph, summed},
            testing::{Net, assert_close, image},
            transformer::{picture, vit_graph},
        },
    };

    fn weighted(a: &[Vec<f64>], g: &[Vec<f64>]) -> Vec<f64> {
        let weights: Vec<f64> = g
            .iter()
            .map(|g| g.iter().sum::<f64>() / g.len() as f64)
            .collect();
        summed(a.len(), a[0].len(), |c, p| weights[c] * a[c][p])
    }

    #[test]
    fn is_its_definition() {
        let graph = graph();
        for layer in ["norm", "relu_1", "branch", "add_1"] {
            let (a, g) = by_channel(&graph, layer, image(1, 2), 1);
            let want = weighted(&a, &g);
            let cam = GradCam::new().layer(layer).relu(false);
            let map = cam.explain(&graph, image(1, 2), 1).unwrap();
            assert_eq!(map.evaluations.gradient, 1);
            assert_values(map.values, &want, 1e-5);
            let want: Vec<f64> = want.iter().map(|v| v.max(0.0)).collect();
            let map = cam.relu(true).explain(&graph, image(1, 2), 1).unwrap();
            assert_values(map.values, &want, 1e-5);
        }
    }

    /// A convolution that is used twice: each use is a layer of its own, and a residual branch
    /// that is read again gets the gradients of both readers.
    #[test]
    fn reused_modules_and_branches_have_their_own_gradients() {
        let graph = Reused::graph();
        let explain = |layer: &str| {
            let cam = GradCam::new()
                .layer(layer)
                .relu(false)
                .resize(Resize::Nearest);
            cam.explain(&graph, image(1, 2), 1).unwrap().values
        };
        for layer in ["twice", "twice#2", "add_1", "relu_1"] {
            let (a, g) = by_channel(&graph, layer, image(1, 2), 1);
            let (map, want) = (explain(layer), weighted(&a, &g));
            let [_, _, height, width] = map.dims();
            let cells = width.div_ceil(2);
            let want: Vec<f64> = (0..height * width)
                .map(|i| want[(i / width) * 5 / height * cells + (i % width) * cells / width])
                .collect();
            assert_values(map, &want, 1e-5);
        }
    }

    #[test]
    fn several_layers_are_averaged() {
        let graph = Reused::graph();
        let explain = |layers: &[&str]| {
            let cam = GradCam::new().layers(layers.iter().copied());
            cam.explain(&graph, image(2, 2), vec![1, 3]).unwrap().values
        };
        let mean = (explain(&["relu_1"]) + explain(&["add_2"])) / 2.0;
        assert_close(explain(&["relu_1", "add_2"]), mean, 1e-6);
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_splits_agree(&GradCam::new(), 1e-5);
        assert_splits_agree(&GradCam::new().relu(false).layers(["stem", "add_1"]), 1e-5);
    }

    /// Channels last at the input, as in `[N, H, W, C]` and `[N, T, F]`.
    #[test]
    fn maps_lie_where_the_input_has_its_positions() {
        let net = Net::relu(&Device::flex());
        let last = image(1, 0).permute([0, 2, 3, 1]);
        let moved = Graph::trace(&net, |m, x| m.forward(x.permute([0, 3, 1, 2])), &last).unwrap();
        let x = image(2, 5);
        let plain = Graph::trace(&net, |m, x| m.forward(x), &x).unwrap();
        let want = GradCam::new().explain(&plain, x.clone(), 1).unwrap().values;
        let got = GradCam::new()
            .explain(&moved, x.permute([0, 2, 3, 1]), 1)
            .unwrap()
            .values;
        assert_eq!(got.dims(), [2, 9, 8, 1]);
        assert_close(got.permute([0, 3, 1, 2]), want, 1e-6);
    }

    /// Patches of 3x4 pixels as tokens, one class token before them.
    #[derive(Module, Debug)]
    struct Tokens {
        embed: Linear,
        mix: Linear,
        head: Linear,
    }

    impl Tokens {
        fn forward(&self, x: Tensor<4>, mean: bool) -> Tensor<2> {
            let [rows, ..] = x.dims();
            let patches = x.reshape([rows, 3, 2, 6, 2, 4]).permute([0, 2, 4, 1, 3, 5]);
            let tokens = self.embed.forward(patches.reshape([rows, 4, 72]));
            let class = tokens.clone().mean_dim(1) * 0.5;
            let tokens = Tensor::cat(vec![class, tokens], 1);
            let tokens = self.mix.forward(tokens.tanh());
            let read: Tensor<2> = match mean {
                true => tokens.mean_dim(1).squeeze_dim(1),
                false => tokens.narrow(1, 0, 1).squeeze_dim(1),
            };
            self.head.forward(read)
        }
    }

    #[test]
    fn tokens_are_laid_out_as_the_images_patches() {
        let device = Device::flex();
        device.seed(5);
        let net = Tokens {
            embed: LinearConfig::new(72, 6).init(&device),
            mix: LinearConfig::new(6, 6).init(&device),
            head: LinearConfig::new(6, 3).init(&device),
        };
        let x = Tensor::<4>::cat(vec![image(1, 1), image(1, 2)], 2)
            .narrow(2, 0, 12)
            .repeat(&[1, 1, 1, 1]);
        let trace = |mean| Graph::trace(&net, |m, x| m.forward(x, mean), &x).unwrap();
        let graph = trace(true);
        let cam = GradCam::new().relu(false).resize(Resize::Nearest);
        let map = cam.explain(&graph, x.clone(), 1).unwrap().values;
        assert_eq!(map.dims(), [1, 1, 12, 8]);
        // Token t of the mixing layer has gradient head / 5.
        let id = graph.layer(&"mix".into()).unwrap();
        let a = graph.evaluate(&[(graph.input(), x.clone().into())], &[id]);
        let a = a[0].to_vec().unwrap();
        let w = net.head.weight.val().try_into_vec_as::<f32>().unwrap();
        let cells = map.try_into_vec_as::<f32>().unwrap();
        for token in 0..4 {
            let want: f32 = (0..6)
                .map(|k| a[(token + 1) * 6 + k] * w[k * 3 + 1] / 5.0)
                .sum();
            let got = cells[(token / 2) * 6 * 8 + (token % 2) * 4];
            assert!((got - want).abs() < 1e-5, "{token}: {got} {want}");
        }
        // A network that reads its class token only.
        let error = GradCam::new()
            .layer("mix")
            .explain(&trace(false), x.clone(), 1)
            .unwrap_err();
        assert!(error.to_string().contains("class token"), "{error}");
        // By default the last layer that it reads all of.
        let explain = |cam: GradCam| {
            cam.relu(false)
                .explain(&trace(false), x.clone(), 1)
                .unwrap()
        };
        let map = explain(GradCam::new()).values;
        assert!(map.clone().abs().max().into_scalar::<f32>() > 0.0);
        assert_close(map, explain(GradCam::new().layer("embed")).values, 0.0);
    }

    /// What the last attention of a transformer with a class token reads; of one that reads all
    /// of its tokens, the last tokens.
    #[test]
    fn the_default_layer_of_a_transformer_is_read_by_the_score() {
        for (class, layer) in [(true, "blocks.1.norm1"), (false, "norm")] {
            let graph = vit_graph(class);
            let id = graph.layer(&Layer::LastSpatial).unwrap();
            assert_eq!(graph.node(id).name, layer);
            let map = GradCam::new().relu(false);
            let map = map.explain(&graph, picture(1), 1).unwrap().values;
            assert!(map.abs().max().into_scalar::<f32>() > 1e-4, "{layer}");
        }
    }

    #[test]
    fn works_in_half_precision() {
        let graph = graph();
        let want = GradCam::new()
            .explain(&graph, image(1, 1), 0)
            .unwrap()
            .values;
        let half = graph.cast(DType::F16);
        let got = GradCam::new()
            .explain(&half, image(1, 1).cast(DType::F16), 0)
            .unwrap();
        assert_close(got.values.cast(DType::F32), want, 1e-2);
    }

    #[test]
    fn wrong_options_are_named() {
        let graph = graph();
        let text = |cam: GradCam| cam.explain(&graph, image(1, 1), 0).unwrap_err().to_string();
        assert!(text(GradCam::new().layer("brunch")).contains("branch"));
        assert!(text(GradCam::new().layer("head")).contains("at head"));
        assert!(text(GradCam::new().layers([""; 0])).starts_with("layers = []"));
        let closure = |x: Tensor<4>| x.flatten::<2>(1, 3);
        let error = GradCam::new()
            .explain(&closure, image(1, 1), 0)
            .unwrap_err();
        assert!(
            error.to_string().starts_with("grad-cam needs the layers"),
            "{error}"
        );
    }
}
