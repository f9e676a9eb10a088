use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::Outcome,
    error::Error,
    graph::inside,
    host::widened,
    method::Method,
    methods::{
        attention::{Query, even_attentions, matrices},
        attention_rollout::identity,
        places::Frame,
    },
    model::Model,
    recipe::{Recipe, Registered},
    run::{Run, Stage, join},
    target::Goal,
};

/// How the attention that matters for the target flows through a transformer.
///
/// Starting from R = I, each layer adds what its attention passes on:
/// R += mean over heads of (d f / d A * A)^+ times R. The map is what the class token (or another) sees
/// in R. Chefer, Gur and Wolf, "Generic Attention-model Explainability for Interpreting
/// Bi-Modal and Encoder-Decoder Transformers" (2021), <https://arxiv.org/abs/2103.15679>, for
/// self-attention.
///
/// ```
/// use saliency_core::{GradientAttentionRollout, Query};
/// let mean = GradientAttentionRollout::new().query(Query::Mean);
/// assert_eq!(mean.query, Query::Mean);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GradientAttentionRollout {
    /// The token that looks.
    pub query: Query,
}

impl GradientAttentionRollout {
    /// Of the class token.
    pub fn new() -> Self {
        Self::default()
    }

    /// The token that looks.
    pub fn query(mut self, query: Query) -> Self {
        self.query = query;
        self
    }
}

impl Registered for GradientAttentionRollout {
    fn is_non_negative(&self) -> bool {
        true
    }
}

impl<const D: usize> Method<D> for GradientAttentionRollout {
    fn recipe(&self) -> Recipe {
        Recipe::GradientAttentionRollout(*self)
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        let graph = inside(model, "gradient-attention-rollout")?;
        let layers = even_attentions(graph)?;
        let (frame, total) = (Frame::of(graph), input.dims()[0]);
        let mut parts = Vec::new();
        run.batches(Stage::Attributing, total, run.rows(input), |range| {
            let rows = range.len();
            let goal = goal.slice(range.start, range.end);
            let batch = input.clone().narrow(0, range.start, rows);
            let found = graph.activations_and_gradients(batch.into(), &layers, &goal, run)?;
            let mut relevance: Option<Tensor<3>> = None;
            for (weights, gradient) in found {
                let product = &weights * &gradient;
                let heads = widened(matrices(product.relu(), rows));
                let [_, _, tokens, _] = heads.dims();
                let step = heads.mean_dim(1).reshape([rows, tokens, tokens]);
                relevance = Some(match relevance {
                    Some(before) => before.clone() + step.matmul(before),
                    None => step.clone() + identity(&step),
                });
            }
            let relevance = relevance.expect("there is an attention");
            parts.push(self.query.map(relevance.cast(input.dtype()), &frame)?);
            Ok(())
        })?;
        Ok(join(parts).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        BatchSize, Target,
        methods::{
            testing::assert_close,
            transformer::{picture, vit_graph},
        },
    };

    /// The gradient at the attention by central differences, the update on the host.
    #[test]
    fn is_the_relevance_update_of_attention_times_gradient() {
        let graph = vit_graph(true).cast(burn::tensor::DType::F64);
        let x = picture(1).cast(burn::tensor::DType::F64);
        let class = 2;
        let n = 17;
        let mut relevance: Vec<f64> = (0..n * n).map(|i| f64::from(i % (n + 1) == 0)).collect();
        for name in ["softmax_1", "softmax_2"] {
            let id = graph.layer(&name.into()).unwrap();
            let feed = |v| {
                graph.evaluate(
                    &[(graph.input(), x.clone().into()), (id, v)],
                    &[graph.output()],
                )
            };
            let weights = graph
                .evaluate(&[(graph.input(), x.clone().into())], &[id])
                .remove(0);
            let weights = weights.tensor::<4>();
            let values = weights.clone().try_into_vec_as::<f64>().unwrap();
            let at = |element: usize, h: f64| {
                let mut moved = values.clone();
                moved[element] += h;
                let data = burn::tensor::TensorData::new(moved, weights.dims());
                let moved = Tensor::<4>::from_data(data, (&x.device(), x.dtype()));
                let output = feed(moved.into()).remove(0).tensor::<2>();
                output.try_into_vec_as::<f64>().unwrap()[class]
            };
            let h = 1e-5;
            let step: Vec<f64> = (0..n * n)
                .map(|i| {
                    let head = |element: usize| {
                        let gradient = (at(element, h) - at(element, -h)) / (2.0 * h);
                        (gradient * values[element]).max(0.0)
                    };
                    (head(i) + head(n * n + i)) / 2.0
                })
                .collect();
            relevance = (0..n * n)
                .map(|at| {
                    let sum = |k| step[at / n * n + k] * relevance[k * n + at % n];
                    relevance[at] + (0..n).map(sum).sum::<f64>()
                })
                .collect();
        }
        let want = burn::tensor::TensorData::new(relevance[1..n].to_vec(), [1, 1, 4, 4]);
        let want = Tensor::<4>::from_data(want, (&x.device(), x.dtype()));
        let want = Frame::of(&graph).spread(want.into(), crate::Resize::Bilinear);
        let got = GradientAttentionRollout::new()
            .explain(&graph, x, class)
            .unwrap();
        assert_close(got.values, want, 1e-6);
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        let graph = vit_graph(true);
        let explain = |rows| {
            let run = Run::new().batch_size(BatchSize::Rows(rows));
            let method = GradientAttentionRollout::new();
            let map = method.explain_with(&graph, picture(5), &Target::Predicted, &run);
            map.unwrap().values
        };
        assert_close(explain(2), explain(5), 1e-5);
    }
}
