//! Parts of a graph, and a softmax after it.

use super::{
    Graph, Layer, Node, NodeId,
    op::{Along, Op, Size},
    passes::without_dead,
    run::described,
    value::Value,
};
use crate::{error::Error, run::guarded};

impl Graph {
    /// The part from the input to a layer, as a model whose outputs are the layer's values: one
    /// row of them for each row of the input, positions flattened in row-major order.
    ///
    /// ```
    /// use burn::{module::Module, nn::{Linear, LinearConfig}, tensor::{Device, Tensor, activation::relu}};
    /// use saliency_core::{Graph, Model};
    ///
    /// #[derive(Module, Debug)]
    /// struct Mlp { hidden: Linear, out: Linear }
    ///
    /// let device = Device::flex();
    /// let mlp = Mlp {
    ///     hidden: LinearConfig::new(4, 8).init(&device),
    ///     out: LinearConfig::new(8, 3).init(&device),
    /// };
    /// let x = Tensor::<2>::ones([5, 4], &device);
    /// let graph = Graph::trace(&mlp, |m, x| m.out.forward(relu(m.hidden.forward(x))), &x)?;
    ///
    /// let features = graph.head(&"relu_1".into())?.forward(x.clone());
    /// assert_eq!(features.dims(), [5, 8]);
    /// let outputs = graph.tail(&"relu_1".into())?.forward(features);
    /// outputs.into_data().assert_eq(&graph.forward(x).into_data(), true);
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownLayer`], [`Error::NoSpatialLayer`]; [`Error::NotACut`] where the layer's
    /// shape does not begin with the rows.
    pub fn head(&self, layer: &Layer) -> Result<Graph, Error> {
        self.head_at(self.layer(layer)?)
    }

    /// See [`head`](Graph::head).
    pub(crate) fn head_at(&self, output: NodeId) -> Result<Graph, Error> {
        let node = self.begins_with_rows(output)?;
        let values = node.shape_at(1).iter().product();
        let flat = vec![Size::Rows(1), Size::Fixed(values)];
        let mut graph = self.uncompiled();
        graph.output = match node.shape == flat {
            true => output,
            false => {
                let mut reshape = Node::new(Op::Reshape, vec![output], flat, None);
                reshape.name = format!("{}.flat", node.name);
                graph.add(reshape)
            }
        };
        Ok(without_dead(&graph))
    }

    /// The part from a layer to the output, as a model whose input is the layer's value.
    ///
    /// See [`head`](Graph::head) for an example.
    ///
    /// # Errors
    /// [`Error::UnknownLayer`], [`Error::NoSpatialLayer`]; [`Error::NotACut`] where something
    /// reaches the output past the layer, or its shape does not begin with the rows.
    pub fn tail(&self, layer: &Layer) -> Result<Graph, Error> {
        let cut = self.layer(layer)?;
        self.begins_with_rows(cut)?;
        let mut graph = self.uncompiled();
        graph.nodes[cut.0].op = Op::Input;
        graph.nodes[cut.0].inputs.clear();
        let past = graph.dependents(self.input);
        if cut != self.input && past[self.output.0] {
            // Where the two come together.
            let through = graph.dependents(cut);
            let meet = (0..past.len()).find(|&id| past[id] && through[id]);
            let meet = meet.map_or(self.output, NodeId);
            return Err(Error::NotACut {
                layer: self.node(cut).name.clone(),
                why: format!(
                    "{} gets what did not go through it; choose a layer that everything goes through",
                    self.node(meet).name
                ),
            });
        }
        graph.input = cut;
        Ok(without_dead(&graph))
    }

    fn begins_with_rows(&self, id: NodeId) -> Result<&Node, Error> {
        let node = self.node(id);
        match node.shape.first() {
            Some(Size::Rows(1)) => Ok(node),
            _ => Err(Error::NotACut {
                layer: node.name.clone(),
                why: format!(
                    "its shape {} does not begin with the rows of the input",
                    described(&node.shape)
                ),
            }),
        }
    }

    /// As [`evaluate`](Graph::evaluate), with errors where that panics.
    ///
    /// ```
    /// use burn::{nn::LinearConfig, tensor::{Device, Tensor}};
    /// use saliency_core::Graph;
    ///
    /// let device = Device::flex();
    /// let net = LinearConfig::new(4, 3).init(&device);
    /// let x = Tensor::<2>::ones([1, 4], &device);
    /// let graph = Graph::trace(&net, |m, x| m.forward(x), &x)?;
    /// let all = graph.try_evaluate(&[(graph.input(), x.into())], &[graph.output()])?;
    /// assert_eq!(all[0].shape(), [1, 3]);
    ///
    /// let wrong = Tensor::<2>::ones([1, 5], &device);
    /// let error = graph.try_evaluate(&[(graph.input(), wrong.into())], &[graph.output()]);
    /// assert!(error.unwrap_err().to_string().contains("[rows, 4]"));
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::Trace`] where a wanted node does not depend on the feeds
    /// alone, or nothing is fed; [`Error::ModelPanicked`], [`Error::OutOfMemory`].
    pub fn try_evaluate(
        &self,
        feeds: &[(NodeId, Value)],
        wanted: &[NodeId],
    ) -> Result<Vec<Value>, Error> {
        let exists = |id: &NodeId| id.0 < self.nodes.len();
        if !feeds.iter().all(|(id, _)| exists(id)) || !wanted.iter().all(exists) {
            return Err(Error::trace("a node is not one of this graph".into()));
        }
        let shape = match feeds.first() {
            Some((_, value)) => value.shape(),
            None => return Err(Error::trace("no node was given a value".into())),
        };
        let rows = self.rows(feeds)?;
        for (id, value) in feeds {
            if self.node(*id).shape_at(rows) != value.shape() {
                return Err(self.misfit(*id, value));
            }
        }
        let needed = self.needed(feeds, wanted);
        if needed[self.input.0] {
            return Err(Error::trace(
                "a wanted node depends on the input, which was given no value".into(),
            ));
        }
        guarded(&shape, || self.evaluate(feeds, wanted))
    }

    /// The same graph with a softmax over its outputs.
    pub(crate) fn probabilities(&self) -> &Graph {
        self.probabilities.get_or_init(|| {
            let mut graph = self.uncompiled();
            let logits = graph.output;
            let shape = graph.node(logits).shape.clone();
            let softmax = Op::Along(Along::Softmax, 1);
            let mut node = Node::new(softmax, vec![logits], shape, None);
            let taken = |name: &str| graph.nodes.iter().any(|node| node.name == name);
            node.name = (1..)
                .map(|n| match n {
                    1 => "probabilities".to_owned(),
                    n => format!("probabilities_{n}"),
                })
                .find(|name| !taken(name))
                .unwrap_or_default();
            graph.output = graph.add(node);
            graph
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Tensor, activation::softmax};

    use crate::{
        Error, GradCam, Gradient, Graph, Layer, Lrp, Method, Model, Probabilities, ScoreCam,
        methods::testing::{assert_close, image, net_graph},
    };

    #[test]
    fn head_and_tail_make_the_whole() {
        let graph = net_graph();
        let x = image(3, 1);
        for name in ["stem", "relu_1", "relu_2", "head", "input"] {
            let layer = Layer::from(name);
            let (head, tail) = (graph.head(&layer).unwrap(), graph.tail(&layer).unwrap());
            let middle = head.forward(x.clone());
            let mut shape = tail.node(tail.input()).shape_at(3);
            assert_eq!(shape.iter().product::<usize>(), middle.dims()[1] * 3);
            shape.resize(4, 1);
            let out = match name {
                "head" => tail.forward(middle),
                _ => {
                    let shape: [usize; 4] = shape.try_into().unwrap();
                    tail.forward(middle.reshape(shape))
                }
            };
            assert_close(out, graph.forward(x.clone()), 1e-6);
        }
        let tail = graph.tail(&"relu_2".into()).unwrap();
        assert!(tail.nodes().count() < graph.nodes().count());
        assert!(tail.parameters().all(|(path, _)| path.starts_with("head")));
    }

    /// An output of the head is a value of the layer, so it can be explained as any other.
    #[test]
    fn a_value_of_a_layer_can_be_explained() {
        let graph = net_graph();
        let head = graph.head(&"relu_1".into()).unwrap();
        let x = image(1, 2);
        let map = Gradient.explain(&head, x.clone(), 30).unwrap();
        assert_close(map.outputs, head.forward(x), 1e-6);
        assert!(map.values.abs().sum().into_scalar::<f32>() > 0.0);
    }

    #[test]
    fn a_branch_is_no_cut() {
        let graph = net_graph();
        let error = graph.tail(&"branch".into()).unwrap_err();
        assert!(matches!(&error, Error::NotACut { layer, .. } if layer == "branch"));
        assert!(error.to_string().contains("add_1"), "{error}");
        let error = graph.tail(&"brunch".into()).unwrap_err();
        assert!(matches!(error, Error::UnknownLayer { .. }));
    }

    #[test]
    fn evaluating_says_what_does_not_fit() {
        let graph = net_graph();
        let (input, output) = (graph.input(), graph.output());
        let relu = graph.layer(&"relu_1".into()).unwrap();
        let x: crate::graph::Value = image(2, 1).into();
        let message =
            |feeds: &[_], wanted: &[_]| graph.try_evaluate(feeds, wanted).unwrap_err().to_string();
        assert!(message(&[], &[output]).contains("no node was given"));
        let flat = x.clone().reshape(&[2, 216]);
        assert!(message(&[(input, flat)], &[output]).contains("[rows, 3, 9, 8]"));
        let branch = graph.layer(&"branch".into()).unwrap();
        let all = graph.activations(x).unwrap();
        let fed = all.get(branch).unwrap().clone();
        assert!(message(&[(branch, fed)], &[output]).contains("depends on the input"));
        let fed = all.get(relu).unwrap().clone();
        assert!(graph.try_evaluate(&[(relu, fed)], &[output]).is_ok());
    }

    #[test]
    fn probabilities_have_an_inside() {
        let graph = net_graph();
        let model = Probabilities(&graph);
        let x = image(2, 3);
        let p = softmax(graph.forward(x.clone()), 1);
        let inside: &Graph = Model::<4>::graph(&model).unwrap();
        assert_close(inside.forward(x.clone()), p.clone(), 1e-6);
        assert!(inside.layer(&"probabilities".into()).is_ok());

        // d p_c / d x by hand: sum over k of p_c (delta_ck - p_k) d f_k / d x.
        let map = Gradient.explain(&model, x.clone(), 1).unwrap();
        assert_close(map.outputs, p.clone(), 1e-6);
        let one = p.clone().narrow(1, 1, 1);
        let mut want = Tensor::zeros_like(&x);
        for k in 0..4 {
            let of_k = Gradient.explain(&graph, x.clone(), k).unwrap().values;
            let delta = if k == 1 { 1.0 } else { 0.0 };
            let factor = one.clone() * (p.clone().narrow(1, k, 1).neg() + delta);
            want = want + of_k * factor.reshape([2, 1, 1, 1]);
        }
        assert_close(map.values, want, 1e-5);

        for result in [
            GradCam::new().explain(&model, x.clone(), 1),
            ScoreCam::new().explain(&model, x.clone(), 1),
            Lrp::epsilon_plus().explain(&model, x.clone(), 1),
        ] {
            assert!(result.unwrap().values.abs().sum().into_scalar::<f32>() > 0.0);
        }
        let closure = |x: Tensor<4>| graph.forward(x);
        assert!(Model::<4>::graph(&Probabilities(&closure)).is_none());
    }
}
