use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    columns::Columns,
    error::Error,
    host::{self, widened},
    map::Map,
    recipe::Recipe,
    reduce::{Reduction, reduce, signed_pair},
    target::ResolvedTarget,
};

/// The result of a method: one signed value for each input value, raw (no absolute value,
/// no normalisation, unless the method's own definition has one).
#[derive(Clone, Debug)]
pub struct Attribution<const D: usize> {
    /// Attributions, shaped like the input; those of methods that make one map of all
    /// channels, such as Grad-CAM, have one channel.
    pub values: Tensor<D>,
    /// What was explained, for each row.
    pub targets: Vec<ResolvedTarget>,
    /// The explained score f(x) of each row.
    pub scores: Vec<f64>,
    /// The model's plain outputs `[rows, outputs]`.
    pub outputs: Tensor<2>,
    /// The method that made it, with all its options.
    pub recipe: Recipe,
    /// What the method knows of its own accuracy.
    pub evidence: Evidence<D>,
    /// What it cost, without the one pass for the scores.
    pub evaluations: Evaluations,
    /// Names of the features of a table or a series, where it was given them.
    pub columns: Option<Columns>,
}

/// Rows that went through the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluations {
    /// Rows through a plain forward pass.
    pub forward: usize,
    /// Rows through a forward and a backward pass.
    pub gradient: usize,
}

/// What a method knows of its own accuracy; what does not apply to it is `None`.
#[derive(Clone, Debug, Default)]
pub struct Evidence<const D: usize> {
    /// For complete methods, the convergence delta of each row: the sum of the values minus
    /// what they should add up to (the score minus the score at the baseline).
    pub delta: Option<Vec<f64>>,
    /// For sampled methods, the standard error of each value.
    pub standard_error: Option<Tensor<D>>,
    /// How many samples or steps were taken.
    pub samples: Option<usize>,
    /// Whether the tolerance that was asked for was met.
    pub converged: Option<bool>,
}

impl<const D: usize> Evidence<D> {
    fn row(&self, row: usize) -> Self {
        Evidence {
            delta: self.delta.as_ref().map(|delta| vec![delta[row]]),
            standard_error: self
                .standard_error
                .as_ref()
                .map(|error| error.clone().narrow(0, row, 1)),
            samples: self.samples,
            converged: self.converged,
        }
    }
}

/// What [`Method::attribute`](crate::Method::attribute) returns: values, and what it knows
/// of their accuracy. A plain tensor becomes one without evidence by `into()`.
#[derive(Clone, Debug)]
pub struct Outcome<const D: usize> {
    /// Attributions, shaped like the input; maps over positions have one channel.
    pub values: Tensor<D>,
    /// What the method knows of their accuracy.
    pub evidence: Evidence<D>,
}

impl<const D: usize> From<Tensor<D>> for Outcome<D> {
    fn from(values: Tensor<D>) -> Self {
        Outcome {
            values,
            evidence: Evidence::default(),
        }
    }
}

impl<const D: usize> Attribution<D> {
    /// The attribution of one row of the batch.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use saliency_core::{Gradient, Method, Target};
    /// let x = Tensor::<2>::from_floats([[1.0, 2.0], [4.0, 3.0]], &Device::flex());
    /// let maps = Gradient.explain(&|x: Tensor<2>| x, x, Target::Predicted)?;
    /// let last = maps.row(1)?;
    /// assert_eq!((last.to_vec()?, last.scores), (vec![1.0, 0.0], vec![4.0]));
    /// assert!(maps.row(2).is_err());
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Option`] when there is no such row.
    pub fn row(&self, row: usize) -> Result<Self, Error> {
        if row >= self.targets.len() {
            let requirement = "it must be below the number of rows";
            return Err(Error::option("row", row, requirement));
        }
        Ok(Attribution {
            values: self.values.clone().narrow(0, row, 1),
            targets: vec![self.targets[row].clone()],
            scores: vec![self.scores[row]],
            outputs: self.outputs.clone().narrow(0, row, 1),
            recipe: self.recipe.clone(),
            evidence: self.evidence.row(row),
            evaluations: self.evaluations,
            columns: self.columns.clone(),
        })
    }

    /// All values in row-major order.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use saliency_core::{InputXGradient, Method};
    /// let x = Tensor::<2>::from_floats([[1.0, 2.0]], &Device::flex());
    /// let map = InputXGradient.explain(&|x: Tensor<2>| x, x, 1)?;
    /// assert_eq!(map.to_vec()?, [0.0, 2.0]);
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Device`] when the device fails.
    pub fn to_vec(&self) -> Result<Vec<f32>, Error> {
        host::values(self.values.clone())
    }

    /// Softmax probabilities of the outputs, one vector per row.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use saliency_core::{Gradient, Method, Target};
    /// let x = Tensor::<2>::from_floats([[0.0, 0.0]], &Device::flex());
    /// let map = Gradient.explain(&|x: Tensor<2>| x, x, Target::Predicted)?;
    /// assert_eq!(map.probabilities()?, [[0.5, 0.5]]);
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Device`] when the device fails.
    pub fn probabilities(&self) -> Result<Vec<Vec<f64>>, Error> {
        probabilities(&self.outputs)
    }
}

impl Attribution<4> {
    /// Channels `[N, C, H, W]` reduced to one value per pixel, `[N, H, W]`.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use saliency_core::{Gradient, Method, Reduction};
    /// let x = Tensor::<4>::ones([1, 3, 2, 2], &Device::flex());
    /// let map = Gradient.explain(&|x: Tensor<4>| x.flatten::<2>(1, 3), x, 0)?;
    /// assert_eq!(map.reduce(Reduction::Sum).dims(), [1, 2, 2]);
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    pub fn reduce(&self, reduction: Reduction) -> Tensor<3> {
        reduce(widened(self.values.clone()), 1, reduction).squeeze_dim(1)
    }

    /// The reduced maps on the host, one per row.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use saliency_core::{Gradient, Method, Reduction, Target};
    /// let x = Tensor::<4>::ones([1, 3, 2, 2], &Device::flex());
    /// let sum_of_squares = |x: Tensor<4>| (x.clone() * x).sum_dim(1).flatten::<2>(1, 3).sum_dim(1);
    /// let map = Gradient.explain(&sum_of_squares, x, Target::Regression)?;
    /// assert_eq!(map.maps(Reduction::Sum)?[0].values(), [6.0; 4]);
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Device`] when the device fails.
    pub fn maps(&self, reduction: Reduction) -> Result<Vec<Map>, Error> {
        split(self.reduce(reduction))
    }

    /// The signed pair of each row: (positive, negative), both non-negative.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use saliency_core::{Gradient, Method};
    /// let x = Tensor::<4>::ones([1, 1, 1, 2], &Device::flex());
    /// let model = |x: Tensor<4>| x.clone().narrow(3, 0, 1).sub(x.narrow(3, 1, 1)).flatten::<2>(1, 3);
    /// let (positive, negative) = Gradient.explain(&model, x, 0)?.signed_maps()?.remove(0);
    /// assert_eq!((positive.values(), negative.values()), (&[1.0, 0.0][..], &[0.0, 1.0][..]));
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Device`] when the device fails.
    pub fn signed_maps(&self) -> Result<Vec<(Map, Map)>, Error> {
        let (positive, negative) = signed_pair(widened(self.values.clone()), 1);
        let positive = split(positive.squeeze_dim(1))?;
        let negative = split(negative.squeeze_dim(1))?;
        Ok(positive.into_iter().zip(negative).collect())
    }
}

fn split(maps: Tensor<3>) -> Result<Vec<Map>, Error> {
    let [_, height, width] = maps.dims();
    host::values(maps)?
        .chunks(height * width)
        .map(|values| Map::new(height, width, values.to_vec()))
        .collect()
}

pub(crate) fn probabilities(outputs: &Tensor<2>) -> Result<Vec<Vec<f64>>, Error> {
    let [_, columns] = outputs.dims();
    let outputs = outputs
        .clone()
        .try_into_vec_as::<f64>()
        .map_err(Error::device)?;
    Ok(outputs.chunks(columns).map(softmax).collect())
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<f64> = logits.iter().map(|l| (l - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.into_iter().map(|e| e / sum).collect()
}
