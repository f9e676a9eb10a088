use std::{fmt, ops::Range, sync::Arc};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::{error::Error, plan::Recorded, run::guarded};

/// A caller's own score: outputs `[rows, outputs]` to one value per row `[rows]`.
pub type ScoreFn = Arc<dyn Fn(Tensor<2>) -> Tensor<1> + Send + Sync>;

/// Which number of the model's output is explained.
///
/// ```
/// use saliency_core::Target;
/// assert_eq!(Target::from(3), Target::Class(3));
/// assert_eq!(Target::from(vec![3, 5]), Target::PerRow(vec![3, 5]));
/// ```
#[derive(Clone, Default)]
pub enum Target {
    /// The class with the largest output, per row.
    #[default]
    Predicted,
    /// One class (or output column) for all rows.
    Class(usize),
    /// One class for each row.
    PerRow(Vec<usize>),
    /// The only output of a regression model.
    Regression,
    /// A weighted sum of the outputs, one weight for each: `[1.0, -1.0]` explains what tells
    /// class 0 from class 1.
    Weighted(Vec<f64>),
    /// Any differentiable score of one row's outputs.
    Custom {
        /// Name kept in the result.
        name: String,
        /// The score.
        score: ScoreFn,
    },
}

impl Target {
    /// A caller's own score. Each value must depend on its own row alone.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use saliency_core::{Gradient, Method, Target};
    /// // d(x0 * x1)/dx = (x1, x0)
    /// let product = Target::custom("product", |y: Tensor<2>| y.prod_dim(1).squeeze_dim(1));
    /// let x = Tensor::<2>::from_floats([[2.0, 5.0]], &Device::flex());
    /// let map = Gradient.explain(&|x: Tensor<2>| x, x, product)?;
    /// assert_eq!(map.values.try_into_vec_as::<f32>().unwrap(), [5.0, 2.0]);
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    pub fn custom(
        name: impl Into<String>,
        score: impl Fn(Tensor<2>) -> Tensor<1> + Send + Sync + 'static,
    ) -> Self {
        Target::Custom {
            name: name.into(),
            score: Arc::new(score),
        }
    }

    /// The mean of some of a model's `outputs`: a forecast over the steps of its horizon.
    /// One step alone is [`Class`](Target::Class).
    ///
    /// ```
    /// use saliency_core::Target;
    /// let next_days = Target::mean_of(1..3, 4)?;
    /// assert_eq!(next_days, Target::Weighted(vec![0.0, 0.5, 0.5, 0.0]));
    /// assert!(Target::mean_of(2..5, 4).is_err());
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Option`] where the range is empty or ends beyond the outputs.
    pub fn mean_of(steps: Range<usize>, outputs: usize) -> Result<Self, Error> {
        if steps.is_empty() || steps.end > outputs {
            return Err(Error::option(
                "target",
                format!(
                    "mean of outputs {}..{} of {outputs}",
                    steps.start, steps.end
                ),
                "the range must hold at least one output and end within them",
            ));
        }
        let weight = 1.0 / steps.len() as f64;
        let weights = (0..outputs).map(|i| if steps.contains(&i) { weight } else { 0.0 });
        Ok(Target::Weighted(weights.collect()))
    }
}

impl From<usize> for Target {
    fn from(class: usize) -> Self {
        Target::Class(class)
    }
}

impl From<Vec<usize>> for Target {
    fn from(classes: Vec<usize>) -> Self {
        Target::PerRow(classes)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Predicted => write!(f, "Predicted"),
            Target::Class(class) => write!(f, "Class({class})"),
            Target::PerRow(classes) => write!(f, "PerRow({classes:?})"),
            Target::Regression => write!(f, "Regression"),
            Target::Weighted(weights) => write!(f, "Weighted({weights:?})"),
            Target::Custom { name, .. } => write!(f, "Custom({name:?})"),
        }
    }
}

impl PartialEq for Target {
    /// Custom targets are equal when they share the same function.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Target::Predicted, Target::Predicted) | (Target::Regression, Target::Regression) => {
                true
            }
            (Target::Class(a), Target::Class(b)) => a == b,
            (Target::PerRow(a), Target::PerRow(b)) => a == b,
            (Target::Weighted(a), Target::Weighted(b)) => a == b,
            (Target::Custom { score: a, .. }, Target::Custom { score: b, .. }) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

/// What a [`Target`] came to for one row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResolvedTarget {
    /// A class or output column.
    Class(usize),
    /// A weighted sum of the outputs.
    Weighted(Vec<f64>),
    /// A caller's own score, by name.
    Custom(String),
}

impl ResolvedTarget {
    /// The class, where the target is one.
    ///
    /// ```
    /// assert_eq!(saliency_core::ResolvedTarget::Class(7).class(), Some(7));
    /// ```
    pub fn class(&self) -> Option<usize> {
        match self {
            ResolvedTarget::Class(class) => Some(*class),
            _ => None,
        }
    }
}

/// A target with everything decided: how to turn outputs into one score per row.
///
/// Methods receive it from [`Method::explain`](crate::Method::explain) and pass it, or rows
/// of it, on.
#[derive(Clone, Debug)]
pub struct Goal {
    kind: GoalKind,
    reference: Option<Tensor<2>>,
    /// The forward pass that gave the reference.
    recorded: Option<Recorded>,
}

#[derive(Clone, Debug)]
enum GoalKind {
    Classes(Vec<usize>),
    Weighted { weights: Vec<f64>, rows: usize },
    Custom { target: Target, rows: usize },
}

impl Goal {
    /// Decides `target` for the rows whose plain `outputs` `[rows, outputs]` are given.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use saliency_core::{Goal, Target};
    /// let outputs = Tensor::<2>::from_floats([[1.0, 5.0], [4.0, 3.0]], &Device::flex());
    /// let goal = Goal::resolve(&Target::Predicted, &outputs)?;
    /// assert_eq!(goal.targets().iter().filter_map(|t| t.class()).collect::<Vec<_>>(), [1, 0]);
    /// assert_eq!(goal.scores(outputs)?.try_into_vec_as::<f32>()?, [5.0, 4.0]);
    /// // A wrapper that makes three noisy copies of each row asks for the same classes:
    /// assert_eq!((goal.repeat(3).rows(), goal.slice(1, 2).rows()), (6, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownClass`], [`Error::TargetLength`] or [`Error::NotRegression`].
    pub fn resolve(target: &Target, outputs: &Tensor<2>) -> Result<Self, Error> {
        let [rows, columns] = outputs.dims();
        let length = |what, of, got: usize, expected| match got == expected {
            true => Ok(()),
            false => Err(Error::TargetLength {
                what,
                of,
                got,
                expected,
            }),
        };
        let kind = match target {
            Target::Predicted => GoalKind::Classes(argmax(outputs)?),
            Target::Class(class) => GoalKind::Classes(vec![*class; rows]),
            Target::PerRow(classes) => {
                length("classes", "input (in rows)", classes.len(), rows)?;
                GoalKind::Classes(classes.clone())
            }
            Target::Regression if columns == 1 => GoalKind::Classes(vec![0; rows]),
            Target::Regression => return Err(Error::NotRegression { outputs: columns }),
            Target::Weighted(weights) => {
                length("weights", "model (in outputs)", weights.len(), columns)?;
                if let Some(bad) = weights.iter().find(|w| !w.is_finite()) {
                    return Err(Error::option("target weight", bad, "it must be finite"));
                }
                GoalKind::Weighted {
                    weights: weights.clone(),
                    rows,
                }
            }
            Target::Custom { .. } => GoalKind::Custom {
                target: target.clone(),
                rows,
            },
        };
        if let GoalKind::Classes(classes) = &kind
            && let Some(&class) = classes.iter().find(|&&class| class >= columns)
        {
            return Err(Error::UnknownClass {
                class,
                classes: columns,
            });
        }
        Ok(Goal {
            kind,
            reference: Some(outputs.clone()),
            recorded: None,
        })
    }

    /// Number of rows it is for.
    pub fn rows(&self) -> usize {
        match &self.kind {
            GoalKind::Classes(classes) => classes.len(),
            GoalKind::Weighted { rows, .. } | GoalKind::Custom { rows, .. } => *rows,
        }
    }

    /// The goal of the rows `start..end`.
    pub fn slice(&self, start: usize, end: usize) -> Goal {
        let kind = match &self.kind {
            GoalKind::Classes(classes) => GoalKind::Classes(classes[start..end].to_vec()),
            other => other.with_rows(end - start),
        };
        Goal {
            kind,
            reference: self
                .reference
                .clone()
                .map(|r| r.narrow(0, start, end - start)),
            recorded: self.recorded.as_ref().map(|r| r.select(start..end)),
        }
    }

    /// The goal of the given rows, in their order.
    pub(crate) fn select(&self, rows: &[usize]) -> Goal {
        let kind = match &self.kind {
            GoalKind::Classes(classes) => {
                GoalKind::Classes(rows.iter().map(|&row| classes[row]).collect())
            }
            other => other.with_rows(rows.len()),
        };
        Goal {
            kind,
            reference: self.reference.clone().map(|r| select_rows(r, rows)),
            recorded: self
                .recorded
                .as_ref()
                .map(|r| r.select(rows.iter().copied())),
        }
    }

    /// The goal of `times` copies of the whole batch, one after the other, at *other* inputs.
    pub fn repeat(&self, times: usize) -> Goal {
        let kind = match &self.kind {
            GoalKind::Classes(classes) => GoalKind::Classes(classes.repeat(times)),
            other => other.with_rows(self.rows() * times),
        };
        Goal {
            kind,
            reference: None,
            recorded: None,
        }
    }

    /// The goal of one row for each of `rows`, in that order, at *other* inputs.
    pub(crate) fn pick(&self, rows: &[usize]) -> Goal {
        let kind = match &self.kind {
            GoalKind::Classes(classes) => {
                GoalKind::Classes(rows.iter().map(|&row| classes[row]).collect())
            }
            other => other.with_rows(rows.len()),
        };
        Goal {
            kind,
            reference: None,
            recorded: None,
        }
    }

    /// Plain outputs at these very inputs, where they are known.
    pub(crate) fn reference(&self) -> Option<&Tensor<2>> {
        self.reference.as_ref()
    }

    /// With the forward pass that gave the reference.
    pub(crate) fn with_record(self, recorded: Option<Recorded>) -> Self {
        Goal { recorded, ..self }
    }

    /// The forward pass that gave the reference, where it was recorded.
    pub(crate) fn recorded(&self) -> Option<&Recorded> {
        self.recorded.as_ref()
    }

    /// One score per row, `[rows]`, from outputs `[rows, outputs]`.
    ///
    /// # Errors
    /// [`Error::ModelOutput`] when the rows do not fit; [`Error::Shape`] when a custom score
    /// does not return one value per row.
    pub fn scores(&self, outputs: Tensor<2>) -> Result<Tensor<1>, Error> {
        let [rows, columns] = outputs.dims();
        if rows != self.rows() {
            return Err(Error::ModelOutput {
                rows: self.rows(),
                got: vec![rows, columns],
            });
        }
        let device = outputs.device().inner();
        Ok(match &self.kind {
            GoalKind::Classes(classes) => {
                let index = Tensor::<1, Int>::from_data(
                    TensorData::from(
                        classes
                            .iter()
                            .map(|&class| class as i32)
                            .collect::<Vec<_>>()
                            .as_slice(),
                    ),
                    &device,
                );
                outputs.gather(1, index.reshape([rows, 1])).reshape([rows])
            }
            GoalKind::Weighted { weights, .. } => {
                let weights = vector(weights, outputs.dtype(), &device).reshape([1, columns]);
                (outputs * weights).sum_dim(1).reshape([rows])
            }
            GoalKind::Custom { target, .. } => {
                let Target::Custom { score, .. } = target else {
                    unreachable!("a custom goal holds a custom target")
                };
                let scores = guarded(&[rows, columns], || score(outputs))?;
                match scores.dims() {
                    [n] if n == rows => scores,
                    got => {
                        return Err(Error::Shape {
                            what: "the custom score",
                            expected: format!("[{rows}], one value per row"),
                            got: got.to_vec(),
                        });
                    }
                }
            }
        })
    }

    /// d score / d outputs at these outputs, off the tape: where a backward pass starts.
    ///
    /// # Errors
    /// Those of [`scores`](Goal::scores); [`Error::NotDifferentiable`] for a custom score that
    /// cuts the tape.
    pub(crate) fn seed(&self, outputs: &Tensor<2>) -> Result<Tensor<2>, Error> {
        if let GoalKind::Classes(classes) = &self.kind
            && outputs.dtype() == DType::F32
        {
            let [rows, columns] = outputs.dims();
            if rows != classes.len() {
                return Err(Error::ModelOutput {
                    rows: classes.len(),
                    got: vec![rows, columns],
                });
            }
            let mut seed = vec![0.0f32; rows * columns];
            for (row, class) in classes.iter().enumerate() {
                seed[row * columns + class] = 1.0;
            }
            let data = TensorData::new(seed, [rows, columns]);
            return Ok(Tensor::from_data(data, &outputs.device().inner()));
        }
        let leaf = outputs.clone().inner().autodiff().require_grad();
        let scores = self.scores(leaf.clone())?;
        if !scores.is_tracked() {
            return Err(Error::NotDifferentiable);
        }
        let mut gradients = guarded(&outputs.dims(), || scores.sum().backward())?;
        leaf.grad_remove(&mut gradients)
            .ok_or(Error::NotDifferentiable)
    }

    /// What each row's target came to.
    pub fn targets(&self) -> Vec<ResolvedTarget> {
        match &self.kind {
            GoalKind::Classes(classes) => classes
                .iter()
                .map(|&class| ResolvedTarget::Class(class))
                .collect(),
            GoalKind::Weighted { weights, rows } => {
                vec![ResolvedTarget::Weighted(weights.clone()); *rows]
            }
            GoalKind::Custom { target, rows } => {
                let name = match target {
                    Target::Custom { name, .. } => name.clone(),
                    other => format!("{other:?}"),
                };
                vec![ResolvedTarget::Custom(name); *rows]
            }
        }
    }
}

impl GoalKind {
    fn with_rows(&self, rows: usize) -> GoalKind {
        match self {
            GoalKind::Classes(_) => unreachable!("classes carry their own rows"),
            GoalKind::Weighted { weights, .. } => GoalKind::Weighted {
                weights: weights.clone(),
                rows,
            },
            GoalKind::Custom { target, .. } => GoalKind::Custom {
                target: target.clone(),
                rows,
            },
        }
    }
}

fn argmax(outputs: &Tensor<2>) -> Result<Vec<usize>, Error> {
    outputs
        .clone()
        .argmax(1)
        .try_into_vec_as::<i64>()
        .map(|classes| classes.into_iter().map(|class| class as usize).collect())
        .map_err(Error::device)
}

/// The given rows of a tensor.
pub(crate) fn select_rows<const D: usize>(tensor: Tensor<D>, rows: &[usize]) -> Tensor<D> {
    let index: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
    let index =
        Tensor::<1, Int>::from_data(TensorData::from(index.as_slice()), &tensor.device().inner());
    tensor.select(0, index)
}

pub(crate) fn vector(values: &[f64], dtype: DType, device: &Device) -> Tensor<1> {
    Tensor::from_data(
        TensorData::from(values).convert_dtype(dtype),
        (device, dtype),
    )
}
