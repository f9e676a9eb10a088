//! What the class activation maps share: the values of a layer by channel and place, and maps
//! brought to the positions of the input.

use burn::tensor::Tensor;

use crate::{
    attribution::{Evaluations, Outcome},
    error::Error,
    graph::{Graph, Layer, NodeId, Value, inside},
    methods::places::{Frame, Places},
    model::Model,
    run::{Run, Stage, guarded, join},
    target::Goal,
    upsample::Resize,
};

/// The options that all class activation maps have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cam<'a> {
    pub name: &'static str,
    pub layers: &'a [Layer],
    pub relu: bool,
    pub resize: Resize,
}

/// The builder methods of those options.
macro_rules! cam_builders {
    ($method:ty = $name:literal) => {
        impl $method {
            /// The defaults.
            pub fn new() -> Self {
                Self::default()
            }

            /// The layer.
            pub fn layer(self, layer: impl Into<crate::Layer>) -> Self {
                self.layers([layer])
            }

            /// Several layers: the mean of their maps at the input's positions.
            pub fn layers<L: Into<crate::Layer>>(
                mut self,
                layers: impl IntoIterator<Item = L>,
            ) -> Self {
                self.layers = layers.into_iter().map(Into::into).collect();
                self
            }

            /// Whether only the positive part of each layer's map is kept.
            pub fn relu(mut self, relu: bool) -> Self {
                self.relu = relu;
                self
            }

            /// How maps are brought to the input's positions.
            pub fn resize(mut self, resize: crate::Resize) -> Self {
                self.resize = resize;
                self
            }

            fn cam(&self) -> crate::methods::cam::Cam<'_> {
                crate::methods::cam::Cam {
                    name: $name,
                    layers: &self.layers,
                    relu: self.relu,
                    resize: self.resize,
                }
            }
        }
    };
}
pub(super) use cam_builders;

impl Cam<'_> {
    pub fn validate(&self) -> Result<(), Error> {
        match self.layers.is_empty() {
            true => Err(Error::option("layers", "[]", "name at least one layer")),
            false => Ok(()),
        }
    }

    /// The mean over the layers of `map`, which makes `[rows, 1, places]` of the activations
    /// and the gradients of the score, both `[rows, channels, places]`.
    pub fn of_gradients<const D: usize>(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
        map: impl Fn(Tensor<3>, Tensor<3>) -> Result<Tensor<3>, Error>,
    ) -> Result<Outcome<D>, Error> {
        let graph = inside(model, self.name)?;
        let (frame, places) = self.places(graph)?;
        let ids: Vec<NodeId> = places.iter().map(|place| place.id).collect();
        self.by_rows(input, run, |start, end| {
            let batch = input.clone().narrow(0, start, end - start);
            let goal = goal.slice(start, end);
            let found = graph.activations_and_gradients(batch.into(), &ids, &goal, run)?;
            let maps = places.iter().zip(found).map(|(place, (value, gradient))| {
                let gradient = place.split(gradient);
                place.check_reached(graph, &gradient)?;
                let map = map(place.split(value), gradient)?;
                Ok(self.finish(&frame, place, map))
            });
            mean(maps.collect::<Result<_, Error>>()?)
        })
    }

    /// The same of the activations alone.
    pub fn of_activations<const D: usize>(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        run: &Run,
        map: impl Fn(Tensor<3>) -> Result<Tensor<3>, Error>,
    ) -> Result<Outcome<D>, Error> {
        let graph = inside(model, self.name)?;
        let (frame, places) = self.places(graph)?;
        let ids: Vec<NodeId> = places.iter().map(|place| place.id).collect();
        self.by_rows(input, run, |start, end| {
            let batch = input.clone().narrow(0, start, end - start);
            let values = values_at(graph, batch, &ids, run)?;
            let maps = places.iter().zip(values).map(|(place, value)| {
                let map = map(place.split(value))?;
                Ok(self.finish(&frame, place, map))
            });
            mean(maps.collect::<Result<_, Error>>()?)
        })
    }

    /// Where the input's positions and the layers' places are.
    pub fn places(&self, graph: &Graph) -> Result<(Frame, Vec<Places>), Error> {
        let frame = Frame::of(graph);
        let places = self
            .layers
            .iter()
            .map(|layer| Places::of(graph, graph.layer(layer)?, &frame));
        let places = places.collect::<Result<_, Error>>()?;
        Ok((frame, places))
    }

    /// A layer's map `[rows, 1, places]` at the input's positions.
    pub fn finish<const D: usize>(
        &self,
        frame: &Frame,
        places: &Places,
        map: Tensor<3>,
    ) -> Tensor<D> {
        let map = match self.relu {
            true => map.clamp_min(0.0),
            false => map,
        };
        frame.spread(places.unflatten(map), self.resize)
    }

    fn by_rows<const D: usize>(
        &self,
        input: &Tensor<D>,
        run: &Run,
        mut work: impl FnMut(usize, usize) -> Result<Tensor<D>, Error>,
    ) -> Result<Outcome<D>, Error> {
        let mut parts = Vec::new();
        let total = input.dims()[0];
        run.batches(Stage::Attributing, total, run.rows(input), |range| {
            parts.push(work(range.start, range.end)?);
            Ok(())
        })?;
        Ok(join(parts).into())
    }
}

/// Values of some nodes for one batch, as it is.
pub(super) fn values_at<const D: usize>(
    graph: &Graph,
    input: Tensor<D>,
    wanted: &[NodeId],
    run: &Run,
) -> Result<Vec<Value>, Error> {
    let shape = input.dims();
    graph.check_input(&shape)?;
    run.count(Evaluations {
        forward: shape[0],
        gradient: 0,
    });
    guarded(&shape, || {
        graph.evaluate(&[(graph.input(), input.into())], wanted)
    })
}

/// The mean of several maps.
pub(super) fn mean<const D: usize>(maps: Vec<Tensor<D>>) -> Result<Tensor<D>, Error> {
    let count = maps.len() as f64;
    maps.into_iter()
        .reduce(|a, b| a + b)
        .map(|sum| sum.div_scalar(count))
        .ok_or_else(|| Error::option("layers", "[]", "name at least one layer"))
}

#[cfg(test)]
pub(super) mod testing {
    use burn::{
        module::Module,
        nn::{
            Linear, LinearConfig, PaddingConfig2d,
            conv::{Conv2d, Conv2dConfig},
        },
        tensor::{Device, Tensor, activation::relu},
    };

    use crate::{
        BatchSize, Gradient, Graph, Method, Model, Run, Target,
        methods::testing::{Net, assert_close, image},
    };

    /// One convolution used twice, a branch that is added and read again, functional ReLUs.
    #[derive(Module, Debug)]
    pub struct Reused {
        stem: Conv2d,
        twice: Conv2d,
        head: Linear,
    }

    impl Reused {
        pub fn new() -> Self {
            let device = Device::flex();
            device.seed(3);
            let conv = |from, stride| {
                Conv2dConfig::new([from, 5], [3, 3])
                    .with_stride([stride, stride])
                    .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                    .init(&device)
            };
            Reused {
                stem: conv(3, 2),
                twice: conv(5, 1),
                head: LinearConfig::new(5, 4).init(&device),
            }
        }

        pub fn graph() -> Graph {
            Graph::trace(&Self::new(), |m, x| m.forward(x), &image(1, 0)).unwrap()
        }
    }

    impl Model<4> for Reused {
        fn forward(&self, x: Tensor<4>) -> Tensor<2> {
            let a = relu(self.stem.forward(x));
            let b = relu(self.twice.forward(a.clone())) + a;
            let c = relu(self.twice.forward(b.clone())) + b;
            self.head.forward(c.mean_dims(&[2, 3]).flatten(1, 3))
        }
    }

    pub fn graph() -> Graph {
        let net = Net::relu(&Device::flex());
        Graph::trace(&net, |m, x| m.forward(x), &image(1, 0)).unwrap()
    }

    /// Activations and gradients of one row at a layer, channel by channel, from the layer's
    /// tail as a closure.
    pub fn by_channel(
        graph: &Graph,
        layer: &str,
        x: Tensor<4>,
        class: usize,
    ) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
        let id = graph.layer(&layer.into()).unwrap();
        let a = graph.evaluate(&[(graph.input(), x.clone().into())], &[id]);
        let a = a[0].clone().tensor::<4>();
        let tail = |a: Tensor<4>| -> Tensor<2> {
            let feeds = [(id, a.into()), (graph.input(), x.clone().into())];
            graph.evaluate(&feeds, &[graph.output()]).remove(0).tensor()
        };
        let g = Gradient.explain(&tail, a.clone(), class).unwrap().values;
        let [_, channels, height, width] = a.dims();
        let host = |t: Tensor<4>| -> Vec<Vec<f64>> {
            let values = t.try_into_vec_as::<f64>().unwrap();
            assert_eq!(values.len(), channels * height * width);
            values.chunks(height * width).map(<[f64]>::to_vec).collect()
        };
        (host(a), host(g))
    }

    /// sum over channels of `f(channel, place)`.
    pub fn summed(channels: usize, places: usize, f: impl Fn(usize, usize) -> f64) -> Vec<f64> {
        (0..places)
            .map(|p| (0..channels).map(|c| f(c, p)).sum())
            .collect()
    }

    pub fn assert_values(got: Tensor<4>, want: &[f64], tolerance: f64) {
        let dims = got.dims();
        let want = Tensor::<4>::from_data(
            burn::tensor::TensorData::new(want.to_vec(), dims).convert_dtype(got.dtype()),
            &got.device(),
        );
        assert_close(got, want, tolerance);
    }

    pub fn assert_splits_agree(method: &impl Method<4>, tolerance: f64) {
        let graph = Reused::graph();
        let explain = |rows| {
            let run = Run::new().batch_size(BatchSize::Rows(rows));
            method
                .explain_with(&graph, image(5, 6), &Target::Predicted, &run)
                .unwrap()
                .values
        };
        let whole = explain(1000);
        for rows in [1, 2, 3, 7, 11] {
            assert_close(explain(rows), whole.clone(), tolerance);
        }
    }
}
