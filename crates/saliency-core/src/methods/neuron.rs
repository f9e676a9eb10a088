//! Neurons: single values of a layer, or groups of them.

use std::ops::Range;

use burn::tensor::{DType, Tensor, TensorData};

use crate::{
    attribution::Evaluations,
    error::Error,
    graph::{Graph, Layer, NodeId, Value},
    methods::layer_map::node_of,
    run::{Run, guarded},
};

/// The neurons of a layer at an index that may leave out the last axes: all that begin with it.
#[derive(Clone, Debug)]
pub(crate) struct Neurons {
    pub layer: NodeId,
    /// One at each of them, zero elsewhere: one row.
    mask: Value,
}

/// Which of a row's values, in row-major order, begin with an index.
pub(crate) fn span(graph: &Graph, layer: NodeId, index: &[usize]) -> Result<Range<usize>, Error> {
    let node = graph.node(layer);
    let shape = node.shape_at(1);
    let sizes = &shape[1..];
    let inside = index.len() <= sizes.len() && index.iter().zip(sizes).all(|(i, size)| i < size);
    if !inside {
        let value = format!("{index:?} in {} of shape {sizes:?}", node.name);
        let requirement =
            "it must lie inside the layer's shape without the rows: [channel], or [channel, y, x]";
        return Err(Error::option("neuron", value, requirement));
    }
    let each: usize = sizes[index.len()..].iter().product();
    let first = index
        .iter()
        .zip(sizes)
        .fold(0, |flat, (i, size)| flat * size + i)
        * each;
    Ok(first..first + each)
}

impl Neurons {
    pub(crate) fn of(graph: &Graph, layer: &Layer, index: &[usize]) -> Result<Self, Error> {
        let id = node_of(graph, layer)?;
        let neurons = span(graph, id, index)?;
        let mut shape = graph.node(id).shape_at(1);
        let all = 0..shape[1..].iter().product::<usize>();
        let ones = all.map(|i| f64::from(neurons.contains(&i)));
        shape[0] = 1;
        let data = TensorData::new(ones.collect::<Vec<f64>>(), shape);
        let mask = Value::from_data(data.convert_dtype(DType::F32), graph.device());
        Ok(Neurons { layer: id, mask })
    }

    /// Values of the layer, zero but at the neurons.
    pub(crate) fn masked(&self, values: &Value) -> Value {
        values * &self.mask.cast(values.dtype())
    }

    /// The gradient of their sum at the input.
    pub(crate) fn gradient<const D: usize>(
        &self,
        graph: &Graph,
        x: Tensor<D>,
        run: &Run,
    ) -> Result<Tensor<D>, Error> {
        let shape = x.dims();
        graph.check_input(&shape)?;
        run.count(Evaluations {
            forward: 0,
            gradient: shape[0],
        });
        let leaf = x.autodiff().require_grad();
        let sum = guarded(&shape, || self.sum(graph, leaf.clone()).sum())?;
        if !sum.is_tracked() {
            return Err(Error::NotDifferentiable);
        }
        let mut gradients = guarded(&shape, || sum.backward())?;
        leaf.grad_remove(&mut gradients)
            .ok_or(Error::NotDifferentiable)
    }

    /// Their sum for each row.
    pub(crate) fn sum<const D: usize>(&self, graph: &Graph, x: Tensor<D>) -> Tensor<1> {
        let rows = x.dims()[0];
        let y = graph
            .evaluate(&[(graph.input(), x.into())], &[self.layer])
            .remove(0);
        super::layer_map::flat(&self.masked(&y), rows)
            .sum_dim(1)
            .reshape([rows])
    }
}
