//! Linear models, and what each method must say about them, in closed form.

use burn::{
    module::{Module, Param},
    nn::{
        Linear, LinearConfig,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{DType, Device, Tensor, TensorData},
};
use saliency_core::{Graph, Model, Quadrature, noise::standard_normal};

/// What the values of one row must be.
pub enum Want {
    /// These, up to a relative L2 error.
    Values(Vec<f64>, f64),
    /// These, up to five standard errors of the method's own.
    Sampled(Vec<f64>),
    /// The largest value where these are largest.
    Largest(Vec<f64>),
}

pub fn f64s<const D: usize>(values: &[f64], shape: [usize; D]) -> Tensor<D> {
    let data = TensorData::new(values.to_vec(), shape);
    Tensor::from_data(data, (&Device::flex(), DType::F64))
}

fn plus(v: f64) -> f64 {
    v.max(0.0)
}

fn minus(v: f64) -> f64 {
    v.min(0.0)
}

pub const COLUMNS: usize = 6;

/// f(x) = x w + b in two columns, explained at class 0.
pub struct Table {
    pub graph: Graph,
    pub x: Tensor<2>,
    pub rows: Vec<Row>,
}

/// One row of it.
pub struct Row {
    w: Vec<f64>,
    /// x w, value by value.
    c: Vec<f64>,
    /// The same for class 1.
    other: Vec<f64>,
    /// What the other row has less.
    swapped: Vec<f64>,
    x: Vec<f64>,
    bias: f64,
}

impl Table {
    /// The first row's contributions are 1/4, 1/2, ..., 8 in a random order, with random signs.
    pub fn new(seed: usize) -> Self {
        let noise = standard_normal(seed as u64, 0, 8 * COLUMNS);
        let noise: Vec<f64> = noise.into_iter().map(f64::from).collect();
        let part = |i: usize| &noise[i * COLUMNS..(i + 1) * COLUMNS];
        let away = |v: f64| v + v.signum() * 0.5;
        let mut order: Vec<usize> = (0..COLUMNS).collect();
        order.sort_by(|a, b| part(0)[*a].total_cmp(&part(0)[*b]));
        let x: Vec<Vec<f64>> = (1..3)
            .map(|i| part(i).iter().map(|&v| away(v)).collect())
            .collect();
        let w: Vec<f64> = (0..COLUMNS)
            .map(|i| {
                let size = 0.25 * f64::from(1 << order[i]);
                // There is something to keep and something against it.
                let sign = match COLUMNS - order[i] {
                    1 => 1.0,
                    2 => -1.0,
                    _ => part(3)[i].signum(),
                };
                sign * size / x[0][i]
            })
            .collect();
        let other: Vec<f64> = part(4).iter().map(|v| 0.1 * v).collect();
        // Of any sign, and not such that the score is close to zero.
        let sum: f64 = w.iter().zip(&x[0]).map(|(w, x)| w * x).sum();
        let bias = match 4.0 * part(5)[0] {
            bias if (sum + bias).abs() < 0.2 => bias.abs(),
            bias => bias,
        };
        let device = Device::flex();
        let mut layer = LinearConfig::new(COLUMNS, 2).init(&device);
        let both: Vec<f64> = w.iter().zip(&other).flat_map(|(a, b)| [*a, *b]).collect();
        layer.weight = Param::from_tensor(f64s(&both, [COLUMNS, 2]).cast(DType::F32));
        layer.bias = Some(Param::from_tensor(f64s(&[bias, 0.0], [2]).cast(DType::F32)));
        let example = Tensor::<2>::zeros([1, COLUMNS], &device);
        let graph = Graph::trace(&layer.valid(), |m: &Linear, x| m.forward(x), &example).unwrap();
        // The weights as they are in f32.
        let exact = |v: &f64| f64::from(*v as f32);
        let (w, other): (Vec<f64>, Vec<f64>) = (
            w.iter().map(exact).collect(),
            other.iter().map(exact).collect(),
        );
        let rows = (0..2)
            .map(|r| {
                let by = |w: &[f64]| w.iter().zip(&x[r]).map(|(w, x)| w * x).collect::<Vec<_>>();
                let swapped = (0..COLUMNS)
                    .map(|i| w[i] * (x[r][i] - x[1 - r][i]))
                    .collect();
                Row {
                    c: by(&w),
                    other: by(&other),
                    swapped,
                    w: w.clone(),
                    x: x[r].clone(),
                    bias: exact(&bias),
                }
            })
            .collect();
        Table {
            graph: graph.cast(DType::F64),
            x: f64s(&x.concat(), [2, COLUMNS]),
            rows,
        }
    }
}

/// Some weights are rounded to f32.
const EXACT: f64 = 1e-7;
/// What stabilisers and sums in f32 on the way leave.
const CLOSE: f64 = 2e-5;

impl Row {
    fn score(&self) -> f64 {
        self.c.iter().sum::<f64>() + self.bias
    }

    fn of_w(&self, value: impl Fn(f64) -> f64) -> Vec<f64> {
        self.w.iter().map(|&w| value(w)).collect()
    }

    /// `whole` shared out in proportion to the parts, of which `lost` go to the bias.
    fn shared(&self, whole: f64, lost: f64, part: impl Fn(usize) -> f64) -> Vec<f64> {
        let parts: Vec<f64> = (0..COLUMNS).map(part).collect();
        let sum = parts.iter().sum::<f64>() + lost;
        parts.iter().map(|p| whole * p / sum).collect()
    }

    /// What the method must say; `None` where the model is not one for it.
    pub fn want(&self, method: &str) -> Option<Want> {
        let exact = |values| Some(Want::Values(values, EXACT));
        let close = |values| Some(Want::Values(values, CLOSE));
        let c = |i: usize| self.c[i];
        let f = self.score();
        let (up, down) = (plus(self.bias), minus(self.bias));
        match method {
            "gradient" | "smoothgrad-signed" | "smoothgrad-zennit" | "guided-backprop"
            | "deconvnet" => exact(self.w.clone()),
            "smoothgrad" | "smoothgrad-captum" | "smoothgrad-tf-keras-vis" | "saliency-captum" => {
                exact(self.of_w(f64::abs))
            }
            "smoothgrad-squared" | "smoothgrad-pair" => exact(self.of_w(|w| w * w)),
            "vargrad" => exact(self.of_w(|_| 0.0)),
            "input-x-gradient"
            | "integrated-gradients"
            | "integrated-gradients-adaptive"
            | "integrated-gradients-pair"
            | "integrated-gradients-zennit"
            | "expected-gradients"
            | "gradient-shap"
            | "guided-ig"
            | "deeplift"
            | "deeplift-captum"
            | "deeplift-shap"
            | "deeplift-shap-captum"
            | "occlusion"
            | "occlusion-captum"
            | "occlusion-pair"
            | "feature-ablation"
            | "feature-ablation-captum"
            | "shapley"
            | "shapley-sampling"
            | "kernel-shap"
            | "kernel-shap-captum"
            | "lime"
            | "lime-captum" => close(self.c.clone()),
            "feature-permutation" => close(self.swapped.clone()),
            "idgi" => exact(self.shared(f - self.bias, 0.0, |i| self.w[i] * self.w[i])),

            // One dense layer, which is the first one too.
            "lrp"
            | "lrp-epsilon"
            | "lrp-captum"
            | "lrp-epsilon-plus"
            | "lrp-epsilon-alpha2-beta1" => close(self.c.clone()),
            "lrp-epsilon-plus-flat" | "lrp-epsilon-alpha2-beta1-flat" => {
                close(self.shared(f, 0.0, |_| 1.0))
            }
            "lrp-w2" => close(self.shared(f, self.bias * self.bias, |i| self.w[i] * self.w[i])),
            "lrp-gamma" => {
                let favoured = |v: f64| if f > 0.0 { plus(v) } else { minus(v) };
                let gained = |v: f64| v + 0.25 * favoured(v);
                close(self.shared(f, gained(self.bias), |i| gained(c(i))))
            }
            "lrp-z-plus" => close(self.shared(f, up, |i| plus(c(i)))),
            "lrp-alpha-beta" => {
                let positive = self.shared(2.0 * f, up, |i| plus(c(i)));
                let negative = self.shared(f, down, |i| minus(c(i)));
                close(positive.iter().zip(negative).map(|(p, n)| p - n).collect())
            }
            "lrp-epsilon-gamma-box" => {
                let low = self.x.iter().copied().fold(f64::INFINITY, f64::min);
                let high = self.x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let above = |i: usize| c(i) - low * plus(self.w[i]) - high * minus(self.w[i]);
                close(self.shared(f, 0.0, above))
            }
            "excitation-backprop" => close(self.shared(1.0, 0.0, |i| plus(c(i)))),
            "excitation-backprop-zennit" => close(self.shared(1.0, up, |i| plus(c(i)))),
            "contrastive-excitation-backprop" => {
                let positive = self.shared(1.0, 0.0, |i| plus(c(i)));
                let negative = self.shared(1.0, 0.0, |i| minus(c(i)));
                close(positive.iter().zip(negative).map(|(p, n)| p - n).collect())
            }
            // The bias has no place, so it is spread.
            "full-grad-signed" => exact(
                self.c
                    .iter()
                    .map(|c| c + self.bias / COLUMNS as f64)
                    .collect(),
            ),
            "full-grad" | "full-grad-per-channel" => close(scaled(&self.c, 1e-6)),

            // E f(x m) m_u / p, with each value there with probability 1/2.
            "rise" | "rise-xplique" => {
                let all: f64 = self.c.iter().sum();
                let mean = |c: &f64| c + 0.5 * (all - c) + self.bias;
                Some(Want::Sampled(self.c.iter().map(mean).collect()))
            }
            "sobol" | "sobol-xplique" | "sobol-first-order" => {
                let shares = self.shared(1.0, 0.0, |i| c(i) * c(i));
                Some(Want::Values(shares, 0.05))
            }
            "hsic" | "hsic-xplique" => {
                Some(Want::Largest(self.c.iter().map(|c| c.abs()).collect()))
            }
            "extremal-perturbation" => Some(Want::Largest(self.c.clone())),
            "extremal-perturbation-areas" => {
                let apart = self.c.iter().zip(&self.other).map(|(c, other)| c - other);
                Some(Want::Largest(apart.collect()))
            }
            // What adds more than a mask costs goes.
            "meaningful-perturbation" => {
                let gone = self.c.iter().map(|&c| f64::from(u8::from(c > MASK_COST)));
                Some(Want::Values(gone.collect(), 0.05))
            }
            _ => None,
        }
    }
}

pub const MASK_COST: f64 = 0.1;

/// |values| from 0 to 1, but for the method's epsilon.
fn scaled(values: &[f64], epsilon: f64) -> Vec<f64> {
    let sizes: Vec<f64> = values.iter().map(|v| v.abs()).collect();
    let least = sizes.iter().copied().fold(f64::INFINITY, f64::min);
    let most = sizes.iter().copied().fold(0.0, f64::max);
    sizes
        .iter()
        .map(|v| (v - least) / (most - least + epsilon))
        .collect()
}

/// Whether the channels of the layer are multiples of each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Channels {
    Free,
    Multiples,
}

const INPUT: usize = 2;
const LAYER: usize = 2;
const HEIGHT: usize = 4;
const WIDE: usize = 3;
const PLACES: usize = HEIGHT * WIDE;
pub const SHAPE: [usize; 4] = [1, INPUT, HEIGHT, WIDE];

/// A 1x1 convolution, a factor for each place, the mean over places, a dense layer: the default
/// layer of a method is the product with those factors.
pub struct Picture {
    pub graph: Graph,
    pub x: Tensor<4>,
    /// The layer's activations by channel, and its gradients, which are the same everywhere.
    a: [Vec<f64>; LAYER],
    g: [f64; LAYER],
    /// The gradient at the input, and times the input, by channel.
    w: [Vec<f64>; INPUT],
    c: [Vec<f64>; INPUT],
    /// d (first channel of the layer, summed) / d input.
    neuron: [Vec<f64>; INPUT],
    bias: f64,
}

#[derive(Module, Debug)]
struct Net {
    conv: Conv2d,
    places: Param<Tensor<4>>,
    head: Linear,
}

impl Net {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.conv.forward(x) * self.places.val();
        self.head.forward(x.mean_dims(&[2, 3]).flatten::<2>(1, 3))
    }
}

impl Picture {
    pub fn new(seed: usize, channels: Channels) -> Self {
        let draw = |sample: usize, count: usize| -> Vec<f64> {
            let noise = standard_normal(seed as u64, sample, count);
            noise.into_iter().map(f64::from).collect()
        };
        let mut conv = draw(1, LAYER * INPUT);
        let mut places = draw(2, LAYER * PLACES);
        let mut head = draw(3, LAYER * 2);
        if channels == Channels::Multiples {
            conv.copy_within(0..INPUT, INPUT);
            for value in &mut conv[INPUT..] {
                *value *= 2.0;
            }
            places.copy_within(0..PLACES, PLACES);
            head.iter_mut().for_each(|h| *h = h.abs() + 0.2);
        }
        let bias = draw(4, 1)[0];
        let x = draw(5, INPUT * PLACES);
        let device = Device::flex();
        let param = |values: &[f64]| values.to_vec();
        let net = Net {
            conv: {
                let config = Conv2dConfig::new([INPUT, LAYER], [1, 1]).with_bias(false);
                let mut layer = config.init(&device);
                let weight = f64s(&param(&conv), [LAYER, INPUT, 1, 1]).cast(DType::F32);
                layer.weight = Param::from_tensor(weight);
                layer
            },
            places: Param::from_tensor(f64s(&places, [1, LAYER, HEIGHT, WIDE]).cast(DType::F32)),
            head: {
                let mut layer = LinearConfig::new(LAYER, 2).init(&device);
                layer.weight = Param::from_tensor(f64s(&head, [LAYER, 2]).cast(DType::F32));
                layer.bias = Some(Param::from_tensor(f64s(&[bias, 0.0], [2]).cast(DType::F32)));
                layer
            },
        };
        let example = Tensor::<4>::zeros(SHAPE, &device);
        let graph = Graph::trace(&net.valid(), |m: &Net, x| m.forward(x), &example).unwrap();

        let input = |ch: usize, p: usize| x[ch * PLACES + p];
        let g: [f64; LAYER] = std::array::from_fn(|k| head[2 * k] / PLACES as f64);
        let through = |k: usize, ch: usize, p: usize| places[k * PLACES + p] * conv[k * INPUT + ch];
        let by_value = |value: &dyn Fn(usize, usize) -> f64| -> [Vec<f64>; INPUT] {
            std::array::from_fn(|ch| (0..PLACES).map(|p| value(ch, p)).collect())
        };
        let w = by_value(&|ch, p| (0..LAYER).map(|k| g[k] * through(k, ch, p)).sum());
        let c = by_value(&|ch, p| w[ch][p] * input(ch, p));
        let neuron = by_value(&|ch, p| through(0, ch, p));
        let a = std::array::from_fn(|k| {
            let value = |p| (0..INPUT).map(|ch| through(k, ch, p) * input(ch, p)).sum();
            (0..PLACES).map(value).collect()
        });
        Picture {
            graph: graph.cast(DType::F64),
            x: f64s(&x, SHAPE),
            a,
            g,
            w,
            c,
            neuron,
            bias,
        }
    }

    /// sum over the layer's channels of weight * activation, at each place.
    fn weighted(&self, weights: [f64; LAYER]) -> Vec<f64> {
        let at = |p: usize| (0..LAYER).map(|k| weights[k] * self.a[k][p]).sum();
        (0..PLACES).map(at).collect()
    }

    fn score(&self) -> f64 {
        self.c.iter().flatten().sum::<f64>() + self.bias
    }

    /// What the method must say; `None` where the model is not one for it. `blurred` is what
    /// the method says where the model is the plain sum of the input's values.
    pub fn want(&self, method: &str, channels: Channels, blurred: &[f64]) -> Option<Want> {
        let exact = |values| Some(Want::Values(values, EXACT));
        let close = |values| Some(Want::Values(values, CLOSE));
        let positive = |mut values: Vec<f64>| {
            values.iter_mut().for_each(|v| *v = plus(*v));
            values
        };
        let sums = self.a.each_ref().map(|a| a.iter().sum::<f64>());
        let contributions = self.weighted(self.g);
        let times = |by: &dyn Fn(usize, usize) -> f64| {
            let values = (0..INPUT).flat_map(|ch| (0..PLACES).map(move |p| (ch, p)));
            values.map(|(ch, p)| by(ch, p)).collect::<Vec<f64>>()
        };
        let multiples = channels == Channels::Multiples;
        match method {
            "gradient" => exact(self.w.concat()),
            "input-x-gradient"
            | "integrated-gradients"
            | "deeplift"
            | "deeplift-captum"
            | "lrp-captum"
            | "feature-ablation"
            | "feature-ablation-captum"
            | "shapley"
            | "occlusion"
            | "occlusion-captum"
            | "occlusion-pair" => close(self.c.concat()),
            // The same weights whatever is integrated.
            "blur-ig" => close(times(&|ch, p| self.w[ch][p] * blurred[ch * PLACES + p])),
            "xrai" | "xrai-fast" => close(
                (0..PLACES)
                    .map(|p| {
                        self.c
                            .iter()
                            .map(|c| c[p])
                            .fold(f64::NEG_INFINITY, f64::max)
                    })
                    .collect(),
            ),
            "guided-grad-cam" | "guided-grad-cam-nearest" => {
                close(times(&|ch, p| self.w[ch][p] * plus(contributions[p])))
            }
            "full-grad-signed" => {
                let spread = self.bias / PLACES as f64;
                close(contributions.iter().map(|c| c + spread).collect())
            }
            "full-grad" => {
                let all = scaled(&self.c.concat(), 1e-6);
                close((0..PLACES).map(|p| all[p] + all[PLACES + p]).collect())
            }
            "full-grad-per-channel" => {
                let [first, second] = self.c.each_ref().map(|c| scaled(c, 1e-7));
                close(first.iter().zip(second).map(|(a, b)| a + b).collect())
            }

            "grad-cam-signed" | "hires-cam" => close(contributions),
            "grad-cam" | "hires-cam-pytorch-grad-cam" => close(positive(contributions)),
            // Shares of a sum that may be close to zero, plus 1e-7.
            "xgrad-cam" => {
                let shares = [0, 1].map(|k| self.g[k] * sums[k] / (sums[k] + 1e-7));
                close(positive(self.weighted(shares)))
            }
            "layer-cam" | "grad-cam++-normalised" => {
                close(positive(self.weighted(self.g.map(plus))))
            }
            "grad-cam++" => {
                let weight = |k: usize| {
                    let square = self.g[k] * self.g[k];
                    let below = 2.0 * square + sums[k] * square * self.g[k] + 1e-6;
                    PLACES as f64 * square / below * plus(self.g[k])
                };
                close(positive(self.weighted([0, 1].map(weight))))
            }
            // One component: the multiples' common pattern.
            "eigen-cam"
            | "eigen-cam-uncentred"
            | "eigen-cam-pytorch-grad-cam"
            | "eigen-grad-cam"
            | "eigen-grad-cam-pytorch-grad-cam"
                if multiples =>
            {
                let factors = match method.starts_with("eigen-grad-cam") {
                    true => [self.g[0], 2.0 * self.g[1]],
                    false => [1.0, 2.0],
                };
                let length = factors[0].hypot(factors[1]);
                let mean = match method {
                    "eigen-cam-uncentred" => 0.0,
                    _ => sums[0] / PLACES as f64,
                };
                let mut map: Vec<f64> = self.a[0].iter().map(|a| length * (a - mean)).collect();
                let largest = map
                    .iter()
                    .copied()
                    .max_by(|a, b| a.abs().total_cmp(&b.abs()));
                if largest.is_some_and(|v| v < 0.0) {
                    map.iter_mut().for_each(|v| *v = -*v);
                }
                close(match method.ends_with("pytorch-grad-cam") {
                    true => positive(map),
                    false => map,
                })
            }
            // The same mask twice, so the same weight.
            "score-cam" | "score-cam-aligned" | "faster-score-cam" if multiples => {
                close(positive(self.weighted([0.5; LAYER])))
            }
            "ablation-cam" | "ablation-cam-pytorch-grad-cam" => {
                let f = self.score();
                let least = self.a.iter().flatten().copied().fold(f64::MAX, f64::min);
                let filled = match method {
                    "ablation-cam" => 0.0,
                    _ => PLACES as f64 * (least - 1e7),
                };
                close(positive(
                    self.weighted([0, 1].map(|k| self.g[k] * (sums[k] - filled) / f)),
                ))
            }

            "layer-activation" => close(self.weighted([1.0; LAYER])),
            "layer-gradient-x-activation"
            | "layer-conductance"
            | "layer-integrated-gradients"
            | "layer-rule" => close(contributions),
            // The stabiliser is added to sums over places that may be close to zero.
            "layer-lrp" => Some(Want::Values(contributions, 1e-3)),
            // The way between the first and the last node.
            "layer-conductance-captum" => {
                let nodes = Quadrature::GaussLegendre.nodes(STEPS + 1);
                let way = nodes[STEPS].0 - nodes[0].0;
                close(contributions.iter().map(|c| way * c).collect())
            }
            "internal-influence" => close(vec![self.g.iter().sum(); PLACES]),
            "neuron-gradient" | "neuron-guided-backprop" | "neuron-deconvnet" => {
                exact(self.neuron.concat())
            }
            "neuron-integrated-gradients"
            | "neuron-attribution"
            | "neuron-conductance"
            | "neuron-conductance-captum" => {
                let factor = match method {
                    "neuron-integrated-gradients" | "neuron-attribution" => 1.0,
                    "neuron-conductance" => self.g[0],
                    _ => self.g[0] * (1.0 - 1.0 / STEPS as f64),
                };
                let x: Vec<f64> = self.x.clone().try_into_vec_as().unwrap();
                close(times(&|ch, p| {
                    factor * self.neuron[ch][p] * x[ch * PLACES + p]
                }))
            }
            _ => None,
        }
    }
}

/// The steps that `axioms::methods` sets.
const STEPS: usize = 12;

/// The sum of all values.
pub fn plain_sum() -> impl Model<4> {
    |x: Tensor<4>| x.flatten::<2>(1, 3).sum_dim(1)
}

/// A region for each place.
pub fn own_regions() -> serde_json::Value {
    let labels: Vec<usize> = (0..PLACES).collect();
    serde_json::json!({ "labels": [labels] })
}
