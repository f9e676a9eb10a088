use burn::tensor::{DType, Tensor};

use crate::{
    attribution::{Attribution, Outcome},
    error::Error,
    graph::Layer,
    host::{self, check_finite},
    model::Model,
    plan::Recorded,
    recipe::Recipe,
    run::{Counter, Run, Stage},
    target::{Goal, Target},
};

/// An attribution method: a plain value that holds its options.
///
/// A method of your own implements [`recipe`](Method::recipe) and
/// [`attribute`](Method::attribute), and is then explained with, wrapped and compared as any
/// other:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{Error, Goal, Gradient, Method, Model, Outcome, Recipe, Run, SmoothGrad, Target};
///
/// /// The sign of the gradient.
/// struct Direction;
///
/// impl<const D: usize> Method<D> for Direction {
///     fn recipe(&self) -> Recipe {
///         Recipe::Other { name: "direction".into() }
///     }
///
///     fn attribute(
///         &self,
///         model: &dyn Model<D>,
///         input: &Tensor<D>,
///         goal: &Goal,
///         run: &Run,
///     ) -> Result<Outcome<D>, Error> {
///         Ok(Gradient.attribute(model, input, goal, run)?.values.sign().into())
///     }
/// }
///
/// let model = |x: Tensor<2>| x.powi_scalar(2).sum_dim(1);
/// let x = Tensor::<2>::from_floats([[3.0, -2.0]], &Device::flex());
/// let map = Direction.explain(&model, x.clone(), Target::Regression)?;
/// assert_eq!(map.to_vec()?, [1.0, -1.0]);
/// let smooth = SmoothGrad::of(Direction).samples(4).noise(0.01);
/// assert_eq!(smooth.explain(&model, x, Target::Regression)?.to_vec()?, [1.0, 1.0]);
/// # Ok::<(), Error>(())
/// ```
///
/// Built-in ones carry their options as fields:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::{Method, SmoothGrad, Target};
///
/// let model = |x: Tensor<2>| x.powi_scalar(2).sum_dim(1);
/// let x = Tensor::<2>::from_floats([[1.0, -2.0]], &Device::flex());
/// let map = SmoothGrad::new().samples(20).seed(7).explain(&model, x, Target::Regression)?;
/// assert_eq!(map.scores, [5.0]);
/// assert_eq!(map.values.dims(), [1, 2]);
/// # Ok::<(), saliency_core::Error>(())
/// ```
pub trait Method<const D: usize> {
    /// The method with all its options, as data.
    fn recipe(&self) -> Recipe;

    /// Checks the options.
    ///
    /// # Errors
    /// [`Error::Option`] names the option that is out of range.
    fn validate(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Layers whose values at the explained input the method needs. The forward pass that gives
    /// the outputs can then keep them.
    fn reads(&self) -> &[Layer] {
        &[]
    }

    /// Attributions of `input` for an already decided `goal`. Implemented by methods, called
    /// by wrappers; users call [`explain`](Method::explain).
    ///
    /// # Errors
    /// Any [`Error`].
    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error>;

    /// Explains `target` at `input` with the default [`Run`].
    ///
    /// # Errors
    /// Any [`Error`]: a wrong option, shape or class, a NaN, a model in training mode, ...
    fn explain(
        &self,
        model: &dyn Model<D>,
        input: Tensor<D>,
        target: impl Into<Target>,
    ) -> Result<Attribution<D>, Error>
    where
        Self: Sized,
    {
        self.explain_with(model, input, &target.into(), &Run::default())
    }

    /// Explains `target` at `input`.
    ///
    /// # Errors
    /// Any [`Error`]: a wrong option, shape or class, a NaN, a model in training mode, ...
    fn explain_with(
        &self,
        model: &dyn Model<D>,
        input: Tensor<D>,
        target: &Target,
        run: &Run,
    ) -> Result<Attribution<D>, Error> {
        self.validate()?;
        let input = checked(input)?;
        let (outputs, recorded) = outputs(model, &input, self.reads(), run)?;
        check_finite("the model's output", &outputs)?;
        let goal = Goal::resolve(target, &outputs)?.with_record(recorded);
        self.explain_goal(model, &input, outputs, &goal, run)
    }

    /// Explains an already decided goal. For analyses: the input must have been checked
    /// (finite, not empty), `outputs` must be the plain outputs at exactly this input, and
    /// `goal` must have as many rows.
    ///
    /// # Errors
    /// Any [`Error`].
    fn explain_goal(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        outputs: Tensor<2>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Attribution<D>, Error> {
        let scores = goal.scores(outputs.clone())?;
        check_finite("the score", &scores)?;
        let counter = Counter::default();
        let run = run.sized_for(model);
        let found = self.attribute(model, input, goal, &run.counting(&counter))?;
        check_finite("the attribution", &found.values)?;
        Ok(Attribution {
            values: found.values,
            targets: goal.targets(),
            scores: scores.try_into_vec_as::<f64>().map_err(Error::device)?,
            outputs,
            recipe: self.recipe(),
            evidence: found.evidence,
            evaluations: counter.total(),
            columns: None,
        })
    }
}

impl<const D: usize, M: Method<D> + ?Sized> Method<D> for Box<M> {
    fn recipe(&self) -> Recipe {
        (**self).recipe()
    }

    fn validate(&self) -> Result<(), Error> {
        (**self).validate()
    }

    fn reads(&self) -> &[Layer] {
        (**self).reads()
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Outcome<D>, Error> {
        (**self).attribute(model, input, goal, run)
    }
}

/// Rows whose forward pass is kept, at most.
const RECORDED: usize = 16;

/// Plain outputs, and the forward pass where it is worth keeping.
pub(crate) fn outputs<const D: usize>(
    model: &dyn Model<D>,
    input: &Tensor<D>,
    layers: &[Layer],
    run: &Run,
) -> Result<(Tensor<2>, Option<Recorded>), Error> {
    let (rows, run) = (input.dims()[0], run.sized_for(model));
    if let Some(graph) = model.graph()
        && rows <= run.rows(input).min(RECORDED)
        && let Some((outputs, recorded)) = graph.record(input, layers)?
    {
        run.report(Stage::Scoring, rows, rows)?;
        return Ok((outputs, Some(recorded)));
    }
    Ok((run.forward(model, input)?, None))
}

/// The input off the tape, after a check that it is not empty and all finite.
pub(crate) fn checked<const D: usize>(input: Tensor<D>) -> Result<Tensor<D>, Error> {
    let shape = input.dims();
    if D < 2 {
        return Err(Error::Shape {
            what: "the input",
            expected: "[rows, ...], a batch; add a dimension in front of a single row".into(),
            got: shape.to_vec(),
        });
    }
    if shape.contains(&0) {
        return Err(Error::EmptyInput {
            shape: shape.to_vec(),
        });
    }
    let input = input.inner();
    check_finite("the input", &input)?;
    Ok(input)
}

/// Fails with [`Error::TrainingMode`] when tracked outputs are not the plain ones.
pub(crate) fn check_mode(tracked: &Tensor<2>, plain: &Tensor<2>) -> Result<(), Error> {
    let tolerance = match plain.dtype() {
        DType::F64 => 1e-9,
        DType::F16 => 3e-2,
        DType::BF16 => 1e-1,
        _ => 1e-3,
    };
    let difference = host::relative_l2(tracked, plain)?;
    if difference.is_nan() {
        check_finite("the model's output", &tracked.clone().inner())?;
    }
    match difference <= tolerance {
        true => Ok(()),
        false => Err(Error::TrainingMode { difference }),
    }
}
