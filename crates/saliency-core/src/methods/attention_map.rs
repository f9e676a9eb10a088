use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::{Evaluations, Outcome},
    error::Error,
    graph::{Layer, inside},
    method::Method,
    methods::{
        attention::{Query, attention_of, matrices},
        places::Frame,
    },
    model::Model,
    recipe::{Recipe, Registered},
    run::{Run, Stage, guarded, join},
    target::Goal,
};

/// The attention weights of one layer of a transformer, as a map over the input, whatever the
/// target: how much the class token (or another) looks at each place.
///
/// The weights are those after the softmax, of one head or the mean over all; they are the
/// model's own, and say nothing of what is made of what is looked at (Jain and Wallace,
/// "Attention is not Explanation" (2019), <https://arxiv.org/abs/1902.10186>). Class and register
/// tokens are dropped, and the grid of tokens is brought to the input's height and width. The
/// raw weights of all tokens are the [`LayerActivation`](crate::LayerActivation) of the softmax.
///
/// ```
/// use saliency_core::{AttentionMap, Query};
/// let third_head = AttentionMap::new().layer("blocks.3").head(2).query(Query::Token(0));
/// assert_eq!(third_head.head, Some(2));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttentionMap {
    /// The attention: by the softmax's name, or that of a module with one attention inside; the
    /// last where there is none.
    pub layer: Option<Layer>,
    /// The head; the mean over all where there is none.
    pub head: Option<usize>,
    /// The token that looks.
    pub query: Query,
}

impl AttentionMap {
    /// Of the last attention, all heads.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which attention.
    pub fn layer(mut self, layer: impl Into<Layer>) -> Self {
        self.layer = Some(layer.into());
        self
    }

    /// Which head.
    pub fn head(mut self, head: usize) -> Self {
        self.head = Some(head);
        self
    }

    /// The token that looks.
    pub fn query(mut self, query: Query) -> Self {
        self.query = query;
        self
    }
}

impl Registered for AttentionMap {
    fn is_non_negative(&self) -> bool {
        true
    }
}

impl<const D: usize> Method<D> for AttentionMap {
    fn recipe(&self) -> Recipe {
        Recipe::AttentionMap(self.clone())
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        _: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        let graph = inside(model, "attention-map")?;
        graph.check_input(&input.dims())?;
        let layer = attention_of(graph, self.layer.as_ref())?;
        let (frame, total) = (Frame::of(graph), input.dims()[0]);
        let mut parts = Vec::new();
        run.batches(Stage::Attributing, total, run.rows(input), |range| {
            let rows = range.len();
            run.count(Evaluations {
                forward: rows,
                gradient: 0,
            });
            let batch = input.clone().narrow(0, range.start, rows);
            let weights = guarded(&batch.dims(), || {
                let feeds = [(graph.input(), batch.clone().into())];
                matrices(graph.evaluate(&feeds, &[layer]).remove(0), rows)
            })?;
            let [_, heads, tokens, _] = weights.dims();
            let weights = match self.head {
                Some(head) if head >= heads => {
                    let requirement = "it must be below the number of heads";
                    return Err(Error::option("head", head, requirement));
                }
                Some(head) => weights.narrow(1, head, 1),
                None => weights.mean_dim(1),
            };
            parts.push(
                self.query
                    .map(weights.reshape([rows, tokens, tokens]), &frame)?,
            );
            Ok(())
        })?;
        Ok(join(parts).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        LayerActivation, LayerMethod,
        methods::{
            testing::{assert_close, image, net_graph},
            transformer::{Vit, picture, vit_graph},
        },
    };

    #[test]
    fn is_the_softmax_of_a_head_and_a_token() {
        let graph = vit_graph(true);
        let x = picture(2);
        let raw = LayerActivation::at("softmax_2").explain_layer(&graph, x.clone(), 0);
        let raw = raw.unwrap().tensor::<4>().unwrap();
        assert_eq!(raw.dims(), [2, Vit::HEADS, 17, 17]);
        for (query, token) in [(Query::Auto, 0), (Query::Token(5), 5)] {
            let method = AttentionMap::new().layer("blocks.1").head(1).query(query);
            let got = method.explain(&graph, x.clone(), 0).unwrap().values;
            let want = raw.clone().slice([0..2, 1..2, token..token + 1, 1..17]);
            // One token is two pixels wide; bilinear interpolation keeps the mean.
            assert_eq!(got.dims(), [2, 1, 8, 8]);
            assert_close(
                got.mean_dims(&[2, 3]),
                want.reshape([2, 1, 4, 4]).mean_dims(&[2, 3]),
                1e-5,
            );
        }
        let all = AttentionMap::new().explain(&graph, x.clone(), 0).unwrap();
        let head = |head| {
            let method = AttentionMap::new().layer("softmax_2").head(head);
            method.explain(&graph, x.clone(), 0).unwrap().values
        };
        assert_close(all.values, (head(0) + head(1)).mul_scalar(0.5), 1e-6);
    }

    /// Without a class token all tokens are averaged.
    #[test]
    fn a_model_without_class_token_shows_the_mean() {
        let graph = vit_graph(false);
        let auto = AttentionMap::new().explain(&graph, picture(1), 0).unwrap();
        let mean = AttentionMap::new().query(Query::Mean);
        let mean = mean.explain(&graph, picture(1), 0).unwrap();
        assert_close(auto.values, mean.values, 0.0);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let graph = vit_graph(true);
        let text = |method: AttentionMap| {
            method
                .explain(&graph, picture(1), 0)
                .unwrap_err()
                .to_string()
        };
        assert!(text(AttentionMap::new().head(2)).contains("head = 2"));
        let far = AttentionMap::new().query(Query::Token(17));
        assert!(text(far).contains("query = 17"));
        let none = text(AttentionMap::new().layer("head"));
        assert!(none.contains("softmax_1, softmax_2"), "{none}");
        let both = text(AttentionMap::new().layer("blocks"));
        assert!(both.contains("several attentions"), "{both}");
        let error = AttentionMap::new().explain(&net_graph(), image(1, 0), 0);
        assert_eq!(error.unwrap_err(), Error::NoAttention);
    }
}
