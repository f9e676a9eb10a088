use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    attribution::{Evaluations, Outcome},
    error::Error,
    graph::Graph,
    method::{Method, check_mode},
    model::Model,
    plan::{Engine, ReluRule},
    recipe::{Recipe, Registered},
    run::{Run, Stage, guarded, join},
    target::Goal,
};

/// The gradient of the score with respect to the input: G = d f / d x.
///
/// Its absolute value is the vanilla saliency map of Simonyan, Vedaldi and Zisserman, "Deep
/// Inside Convolutional Networks" (2013), <https://arxiv.org/abs/1312.6034>. The values here
/// keep their sign; take a [`Reduction`](crate::Reduction) for the map. `saliency-captum` is its
/// absolute value.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{Gradient, Method, Target};
/// let cubes = |x: Tensor<2>| x.powi_scalar(3).sum_dim(1);
/// let x = Tensor::<2>::from_floats([[1.0, -2.0]], &Device::flex());
/// let map = Gradient.explain(&cubes, x, Target::Regression)?;
/// assert_eq!(map.to_vec()?, [3.0, 12.0]);
/// # Ok::<(), saliency_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gradient;

impl Registered for Gradient {}

impl<const D: usize> Method<D> for Gradient {
    fn recipe(&self) -> Recipe {
        Recipe::Gradient(*self)
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        let mut parts = Vec::new();
        let total = input.dims()[0];
        run.batches(Stage::Attributing, total, run.rows(input), |range| {
            let batch = input.clone().narrow(0, range.start, range.len());
            let goal = goal.slice(range.start, range.end);
            parts.push(input_gradient(model, batch, &goal, run)?);
            Ok(())
        })?;
        Ok(join(parts).into())
    }
}

/// d score / d x of one batch, as it is. Only `x` is lifted onto the tape; the weights stay constants.
pub(crate) fn input_gradient<const D: usize>(
    model: &dyn Model<D>,
    x: Tensor<D>,
    goal: &Goal,
    run: &Run,
) -> Result<Tensor<D>, Error> {
    Ok(score_and_gradient(model, x, goal, run)?.1)
}

/// Fails where the model is in training mode. For methods that go to other inputs only, which
/// have no plain outputs to compare with.
pub(crate) fn check_inference<const D: usize>(
    model: &dyn Model<D>,
    input: &Tensor<D>,
    goal: &Goal,
    run: &Run,
) -> Result<(), Error> {
    if run.checks_mode() && goal.reference().is_some() {
        let first = input.clone().narrow(0, 0, 1);
        input_gradient(model, first, &goal.slice(0, 1), run)?;
    }
    Ok(())
}

/// The plain scores of `input`: those already known where it is the explained input itself.
pub(crate) fn plain_scores<const D: usize>(
    model: &dyn Model<D>,
    input: &Tensor<D>,
    goal: &Goal,
    run: &Run,
) -> Result<Vec<f64>, Error> {
    let outputs = match goal.reference() {
        Some(outputs) => outputs.clone(),
        None => run.without_progress().forward(model, input)?,
    };
    goal.scores(outputs)?
        .try_into_vec_as()
        .map_err(Error::device)
}

/// f(x) `[rows]` and d f / d x of one batch, as it is.
pub(crate) fn score_and_gradient<const D: usize>(
    model: &dyn Model<D>,
    x: Tensor<D>,
    goal: &Goal,
    run: &Run,
) -> Result<(Tensor<1>, Tensor<D>), Error> {
    let shape = x.dims();
    if let Some(graph) = model.graph()
        && let Some(engine) = graph.engine(&x)
    {
        run.count(Evaluations {
            forward: 0,
            gradient: shape[0],
        });
        return guarded(&shape, || {
            let (outputs, gradient) = planned(graph, engine, x, goal, ReluRule::Derivative)?;
            Ok((goal.scores(outputs)?, gradient))
        })?;
    }
    let x = x.autodiff().require_grad();
    let outputs = run.call(model, x.clone())?;
    if let Some(plain) = goal.reference().filter(|_| run.checks_mode()) {
        check_mode(&outputs, plain)?;
    }
    let scores = goal.scores(outputs)?;
    if !scores.is_tracked() {
        return Err(Error::NotDifferentiable);
    }
    let plain = scores.clone().inner();
    let mut gradients = guarded(&shape, || scores.sum().backward())?;
    let gradient = x
        .grad_remove(&mut gradients)
        .ok_or(Error::NotDifferentiable)?;
    Ok((plain, gradient))
}

/// Outputs and the gradient of a compiled graph, from the explained input's own forward pass where
/// that was recorded.
pub(super) fn planned<const D: usize>(
    graph: &Graph,
    engine: Engine,
    x: Tensor<D>,
    goal: &Goal,
    rule: ReluRule,
) -> Result<(Tensor<2>, Tensor<D>), Error> {
    if let Some((outputs, recorded)) = graph.recorded(goal)
        && recorded.node.is_none()
        && let Some(tape) = recorded.tape()
    {
        let seed = goal.seed(outputs)?;
        let gradient = engine.gradient(&tape, seed, x.dims(), rule)?;
        return Ok((outputs.clone(), gradient));
    }
    engine.outputs_and_gradient(x, rule, |rows, outputs| {
        goal.slice(rows.start, rows.end).seed(outputs)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        BatchSize, Target,
        methods::testing::{Net, assert_close, assert_splits_agree, image, relative_error},
    };
    use burn::{
        module::{Module, ModuleMapper, Param},
        tensor::{DType, Device},
    };

    /// Central differences in f64 of a smooth network.
    #[test]
    fn agrees_with_finite_differences() {
        let device = Device::flex();
        let net = Net::smooth(&device).cast_f64();
        let x = image(2, 1).cast(DType::F64);
        let map = Gradient.explain(&net, x.clone(), vec![1, 3]).unwrap();
        let got = map.values.try_into_vec_as::<f64>().unwrap();
        let h = 1e-5;
        let n = got.len() / 2;
        for index in (0..n).step_by(7) {
            for (row, class) in [(0, 1), (1, 3)] {
                let at = |step: f64| {
                    let mut data = x.try_to_vec_as::<f64>().unwrap();
                    data[row * n + index] += step;
                    let moved = Tensor::<4>::from_data(
                        burn::tensor::TensorData::new(data, x.dims()),
                        (&device, DType::F64),
                    );
                    net.forward(moved).try_into_vec_as::<f64>().unwrap()[row * 4 + class]
                };
                let want = (at(h) - at(-h)) / (2.0 * h);
                let got = got[row * n + index];
                assert!(
                    (got - want).abs() < 1e-7 * want.abs().max(1.0),
                    "{got} {want}"
                );
            }
        }
    }

    #[test]
    fn does_not_depend_on_the_batch_split() {
        assert_splits_agree(&Gradient, 1e-6);
    }

    #[test]
    fn a_weighted_target_is_the_weighted_sum_of_gradients() {
        let net = Net::relu(&Device::flex());
        let x = image(1, 3);
        let of = |target: Target| Gradient.explain(&net, x.clone(), target).unwrap().values;
        let weighted = of(Target::Weighted(vec![2.0, 0.0, -1.0, 0.5]));
        let sum = of(0.into()).mul_scalar(2.0) - of(2.into()) + of(3.into()).mul_scalar(0.5);
        assert_close(weighted, sum, 1e-6);
    }

    #[test]
    fn predicted_is_the_argmax_of_each_row() {
        let net = Net::relu(&Device::flex());
        let x = image(5, 9);
        let map = Gradient
            .explain(&net, x.clone(), Target::Predicted)
            .unwrap();
        let logits = net.forward(x.clone()).try_into_vec_as::<f32>().unwrap();
        let classes: Vec<usize> = logits
            .chunks(4)
            .map(|row| (0..4).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap())
            .collect();
        let targets: Vec<_> = map.targets.iter().map(|t| t.class().unwrap()).collect();
        assert_eq!(targets, classes);
        let again = Gradient.explain(&net, x, classes).unwrap();
        assert_close(map.values, again.values, 0.0);
    }

    #[test]
    fn training_mode_is_an_error() {
        let net = Net::training(&Device::flex());
        let error = Gradient.explain(&net, image(3, 4), 0).unwrap_err();
        assert!(matches!(error, Error::TrainingMode { .. }), "{error}");
        assert!(Gradient.explain(&net.valid(), image(3, 4), 0).is_ok());
    }

    #[test]
    fn a_cut_graph_is_an_error() {
        let cut = |x: Tensor<2>| x.inner();
        let x = Tensor::<2>::ones([1, 2], &Device::flex());
        let error = Gradient.explain(&cut, x.clone(), 0).unwrap_err();
        assert_eq!(error, Error::NotDifferentiable);
        let constant = |x: Tensor<2>| Tensor::<2>::ones(x.dims(), &x.device());
        let error = Gradient.explain(&constant, x, 0).unwrap_err();
        assert_eq!(error, Error::NotDifferentiable);
    }

    #[test]
    fn bad_inputs_are_named() {
        let device = Device::flex();
        let identity = |x: Tensor<2>| x;
        let explain = |x: Tensor<2>, target: Target| {
            Gradient
                .explain(&identity, x, target)
                .unwrap_err()
                .to_string()
        };
        let ones = || Tensor::<2>::ones([2, 3], &device);
        assert!(explain(ones(), 3.into()).contains("no class 3: the model has 3 outputs"));
        assert!(
            explain(ones(), vec![1].into()).contains("1 classes, but the input (in rows) has 2")
        );
        assert!(explain(ones(), Target::Regression).contains("this one has 3"));
        assert!(explain(ones(), Target::Weighted(vec![1.0])).contains("1 weights"));
        assert!(explain(Tensor::zeros([0, 3], &device), 0.into()).contains("[0, 3]"));
        let nan = Tensor::from_floats([[0.0, 1.0, 2.0], [0.0, f32::NAN, f32::INFINITY]], &device);
        assert!(explain(nan, 0.into()).contains("the input has NaN at row 1, element 1"));
        let net = Net::relu(&device);
        let error = Gradient
            .explain(&net, Tensor::<4>::ones([1, 7, 8, 8], &device), 0)
            .unwrap_err();
        assert!(matches!(error, Error::ModelPanicked { .. }), "{error}");
        assert_eq!(error.to_string().lines().count(), 1);
        let rowless = |x: Tensor<2>| x.sum_dim(0);
        let error = Gradient.explain(&rowless, ones(), 0).unwrap_err();
        assert!(
            matches!(error, Error::ModelOutput { rows: 2, .. }),
            "{error}"
        );
        // d sqrt(x) / d x is infinite at 0.
        let sqrt = |x: Tensor<2>| x.sqrt();
        let error = Gradient
            .explain(&sqrt, Tensor::<2>::zeros([1, 2], &device), 1)
            .unwrap_err();
        assert!(error.to_string().contains("the attribution has"), "{error}");
    }

    #[test]
    fn cancelling_stops_the_run() {
        let progress = |p: crate::Progress| match p.stage == Stage::Attributing && p.done >= 2 {
            true => std::ops::ControlFlow::Break(()),
            false => std::ops::ControlFlow::Continue(()),
        };
        let run = Run::new()
            .batch_size(BatchSize::Rows(1))
            .progress(&progress);
        let net = Net::relu(&Device::flex());
        let error = Gradient
            .explain_with(&net, image(4, 0), &Target::Class(0), &run)
            .unwrap_err();
        assert_eq!(
            error,
            Error::Cancelled {
                stage: Stage::Attributing
            }
        );
    }

    #[test]
    fn tracked_weights_do_not_change_the_map() {
        struct Track;
        impl ModuleMapper for Track {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                param.map(|t| t.autodiff().require_grad())
            }
        }
        let net = Net::relu(&Device::flex());
        let plain = Gradient.explain(&net, image(1, 1), 0).unwrap().values;
        let tracked = net.map(&mut Track);
        assert!(tracked.forward(image(1, 1)).is_tracked());
        let map = Gradient.explain(&tracked, image(1, 1), 0).unwrap().values;
        assert!(relative_error(map, plain) < 1e-6);
    }
}
