use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::{Evaluations, Outcome},
    error::Error,
    graph::inside,
    host::widened,
    method::Method,
    methods::{
        attention::{Query, even_attentions, matrices},
        places::Frame,
    },
    model::Model,
    recipe::{Recipe, Registered},
    run::{Run, Stage, guarded, join},
    target::Goal,
};

/// What is made of the heads of an attention layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadFusion {
    /// Their mean.
    #[default]
    Mean,
    /// The largest.
    Max,
    /// The smallest.
    Min,
}

/// How attention flows through all layers of a transformer, whatever the target.
///
/// Each layer's weights A, the heads fused, get half a skip connection, (A + I) / 2 with rows
/// that add up to one, and are multiplied: R = A_L ... A_1. The map is what the class token (or
/// another) sees in R. Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (2020),
/// <https://arxiv.org/abs/2005.00928>.
///
/// [`discard`](AttentionRollout::discard) sets that share of the least fused weights of each
/// layer to zero first, but never that of the first token for itself. The preset
/// `attention-rollout-max` takes the largest head and discards 0.9, the defaults of the
/// `vit-explain` implementation.
///
/// ```
/// use saliency_core::{AttentionRollout, HeadFusion, Recipe};
/// let rollout = AttentionRollout::new().heads(HeadFusion::Max).discard(0.9);
/// assert_eq!(Recipe::named("attention-rollout-max")?, Recipe::AttentionRollout(rollout));
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttentionRollout {
    /// What is made of the heads.
    pub heads: HeadFusion,
    /// Share of the least weights that is discarded, from 0 to below 1.
    pub discard: f64,
    /// The token that looks.
    pub query: Query,
}

impl AttentionRollout {
    /// The mean over the heads, nothing discarded.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is made of the heads.
    pub fn heads(mut self, heads: HeadFusion) -> Self {
        self.heads = heads;
        self
    }

    /// Share of the least weights that is discarded.
    pub fn discard(mut self, share: f64) -> Self {
        self.discard = share;
        self
    }

    /// The token that looks.
    pub fn query(mut self, query: Query) -> Self {
        self.query = query;
        self
    }

    fn check(&self) -> Result<(), Error> {
        match (0.0..1.0).contains(&self.discard) {
            true => Ok(()),
            false => Err(Error::option(
                "discard",
                self.discard,
                "it must be at least 0 and below 1",
            )),
        }
    }

    /// Heads `[rows, heads, tokens, tokens]` to a matrix whose rows add up to one.
    fn step(&self, weights: Tensor<4>) -> Tensor<3> {
        let [rows, _, tokens, _] = weights.dims();
        let fused = match self.heads {
            HeadFusion::Mean => weights.mean_dim(1),
            HeadFusion::Max => weights.max_dim(1),
            HeadFusion::Min => weights.min_dim(1),
        };
        let fused = fused.reshape([rows, tokens, tokens]);
        let kept = discarded(fused, self.discard);
        let mixed = kept.clone() + identity(&kept);
        mixed.clone() / mixed.sum_dim(2)
    }
}

/// The least weights set to zero, but the first.
fn discarded(weights: Tensor<3>, share: f64) -> Tensor<3> {
    let [rows, tokens, _] = weights.dims();
    let count = ((tokens * tokens) as f64 * share) as usize;
    if count == 0 {
        return weights;
    }
    let flat = weights.reshape([rows, tokens * tokens]);
    let limit = flat.clone().sort(1).narrow(1, count - 1, 1);
    let first = flat.clone().narrow(1, 0, 1);
    let least = flat
        .clone()
        .lower_equal(limit.expand([rows, tokens * tokens]));
    let kept = flat.mask_fill(least, 0.0);
    kept.slice_assign([0..rows, 0..1], first)
        .reshape([rows, tokens, tokens])
}

/// Ones on the diagonal of one row, to be broadcast.
pub(crate) fn identity(like: &Tensor<3>) -> Tensor<3> {
    let [_, tokens, _] = like.dims();
    Tensor::<2>::eye(tokens, &like.device())
        .cast(like.dtype())
        .unsqueeze()
}

impl Registered for AttentionRollout {
    fn is_non_negative(&self) -> bool {
        true
    }
}

impl<const D: usize> Method<D> for AttentionRollout {
    fn recipe(&self) -> Recipe {
        Recipe::AttentionRollout(*self)
    }

    fn validate(&self) -> Result<(), Error> {
        self.check()
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        _: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        self.check()?;
        let graph = inside(model, "attention-rollout")?;
        graph.check_input(&input.dims())?;
        let layers = even_attentions(graph)?;
        let (frame, total) = (Frame::of(graph), input.dims()[0]);
        let mut parts = Vec::new();
        run.batches(Stage::Attributing, total, run.rows(input), |range| {
            let rows = range.len();
            run.count(Evaluations {
                forward: rows,
                gradient: 0,
            });
            let batch = input.clone().narrow(0, range.start, rows);
            let rollout = guarded(&batch.dims(), || {
                let feeds = [(graph.input(), batch.clone().into())];
                graph
                    .evaluate(&feeds, &layers)
                    .into_iter()
                    .map(|weights| self.step(widened(matrices(weights, rows))))
                    .reduce(|before, step| step.matmul(before))
                    .expect("there is an attention")
            })?;
            parts.push(self.query.map(rollout.cast(input.dtype()), &frame)?);
            Ok(())
        })?;
        Ok(join(parts).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        BatchSize, LayerActivation, LayerMethod, Resize, Target,
        methods::{
            testing::assert_close,
            transformer::{picture, vit_graph},
        },
    };
    use burn::tensor::Device;

    /// Matrix by matrix on the host.
    #[test]
    fn is_the_product_of_the_layers() {
        let graph = vit_graph(true);
        let x = picture(2);
        let layers = ["softmax_1", "softmax_2"].map(|name| {
            let found = LayerActivation::at(name).explain_layer(&graph, x.clone(), 0);
            let weights = found.unwrap().tensor::<4>().unwrap().narrow(0, 1, 1);
            weights.try_into_vec_as::<f64>().unwrap()
        });
        let n = 17;
        for (heads, discard) in [
            (HeadFusion::Mean, 0.0),
            (HeadFusion::Max, 0.9),
            (HeadFusion::Min, 0.4),
        ] {
            let mut rollout: Vec<f64> = (0..n * n).map(|i| f64::from(i % (n + 1) == 0)).collect();
            for weights in &layers {
                let mut fused: Vec<f64> = (0..n * n)
                    .map(|i| match (heads, weights[i], weights[n * n + i]) {
                        (HeadFusion::Mean, a, b) => (a + b) / 2.0,
                        (HeadFusion::Max, a, b) => a.max(b),
                        (HeadFusion::Min, a, b) => a.min(b),
                    })
                    .collect();
                let mut order: Vec<usize> = (0..n * n).collect();
                order.sort_by(|&a, &b| fused[a].total_cmp(&fused[b]));
                let count = ((n * n) as f64 * discard) as usize;
                for &i in order[..count].iter().filter(|&&i| i != 0) {
                    fused[i] = 0.0;
                }
                let step = |i: usize, j: usize| {
                    let sum: f64 = fused[i * n..(i + 1) * n].iter().sum::<f64>() + 1.0;
                    (fused[i * n + j] + f64::from(i == j)) / sum
                };
                rollout = (0..n * n)
                    .map(|at| {
                        (0..n)
                            .map(|k| step(at / n, k) * rollout[k * n + at % n])
                            .sum()
                    })
                    .collect();
            }
            let want: Vec<f32> = rollout[1..n].iter().map(|&v| v as f32).collect();
            let want = Tensor::<1>::from_floats(want.as_slice(), &Device::flex());
            let want =
                Frame::of(&graph).spread(want.reshape([1, 1, 4, 4]).into(), Resize::Bilinear);
            let method = AttentionRollout::new().heads(heads).discard(discard);
            let got = method.explain(&graph, x.clone(), 0).unwrap().values;
            assert_close(got.narrow(0, 1, 1), want, 1e-5);
        }
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        let graph = vit_graph(true);
        let explain = |rows| {
            let run = Run::new().batch_size(BatchSize::Rows(rows));
            let map =
                AttentionRollout::new().explain_with(&graph, picture(5), &Target::Class(0), &run);
            map.unwrap().values
        };
        assert_close(explain(2), explain(5), 1e-6);
    }

    #[test]
    fn wrong_options_are_named() {
        for discard in [1.0, -0.1, f64::NAN] {
            let method = AttentionRollout::new().discard(discard);
            let error = method.explain(&vit_graph(true), picture(1), 0).unwrap_err();
            assert!(error.to_string().starts_with("discard = "), "{error}");
        }
    }
}
