use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    method::Method,
    methods::{Form, Gradient, InputXGradient, SmoothGrad},
    model::Model,
    run::Run,
    target::Goal,
};

/// A method as data: what a result records, and what the command line and JSON files name.
///
/// It is itself a [`Method`], so a recipe read from a file runs as it is.
///
/// ```
/// use saliency_core::Recipe;
/// let recipe: Recipe = serde_json::from_str(r#"{"method": "smoothgrad", "samples": 20}"#)?;
/// let Recipe::SmoothGrad(smooth) = &recipe else { panic!("another method") };
/// assert_eq!((smooth.samples, smooth.seed), (20, 0));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Recipe {
    /// [`Gradient`].
    Gradient(Gradient),
    /// [`InputXGradient`].
    InputXGradient(InputXGradient),
    /// [`SmoothGrad`] of any other.
    #[serde(rename = "smoothgrad")]
    SmoothGrad(SmoothGrad<Box<Recipe>>),
    /// A method from outside this crate; it is recorded, and cannot be run from data.
    Other {
        /// Its name.
        name: String,
    },
}

impl Default for Recipe {
    fn default() -> Self {
        Recipe::Gradient(Gradient)
    }
}

/// A method that has a name: see [`Recipe::named`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodInfo {
    /// Its name, as the command line takes it.
    pub name: &'static str,
    /// What it is, in one line.
    pub summary: &'static str,
}

impl Recipe {
    /// All methods by name.
    pub const METHODS: [MethodInfo; 6] = {
        const fn info(name: &'static str, summary: &'static str) -> MethodInfo {
            MethodInfo { name, summary }
        }
        [
            info("gradient", "d score / d input, signed"),
            info("input-x-gradient", "input times gradient"),
            info(
                "smoothgrad",
                "mean |gradient| over noisy copies of the input",
            ),
            info("smoothgrad-signed", "mean gradient over noisy copies"),
            info("smoothgrad-squared", "mean gradient^2 over noisy copies"),
            info("vargrad", "variance of the gradient over noisy copies"),
        ]
    };

    /// The method called `name`, with its default options.
    ///
    /// ```
    /// use saliency_core::{Form, Recipe, SmoothGrad};
    /// let Recipe::SmoothGrad(vargrad) = Recipe::named("vargrad")? else { panic!() };
    /// assert_eq!(vargrad.form, Form::Variance);
    /// assert!(Recipe::METHODS.iter().all(|m| Recipe::named(m.name).is_ok()));
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownMethod`] lists the names.
    pub fn named(name: &str) -> Result<Self, Error> {
        let smooth = |form| Ok(Recipe::SmoothGrad(SmoothGrad::default().form(form)));
        match name {
            "gradient" => Ok(Recipe::Gradient(Gradient)),
            "input-x-gradient" => Ok(Recipe::InputXGradient(InputXGradient)),
            "smoothgrad" => smooth(Form::MeanAbsolute),
            "smoothgrad-signed" => smooth(Form::Mean),
            "smoothgrad-squared" => smooth(Form::MeanSquare),
            "vargrad" => smooth(Form::Variance),
            _ => Err(Error::UnknownMethod {
                name: name.into(),
                known: Self::METHODS.map(|m| m.name).join(", "),
            }),
        }
    }

    /// The method's name, with the method inside a wrapper where that is not the gradient:
    /// `smoothgrad`, `smoothgrad of input-x-gradient`.
    ///
    /// ```
    /// use saliency_core::Recipe;
    /// assert!(Recipe::METHODS.iter().all(|m| Recipe::named(m.name).unwrap().name() == m.name));
    /// ```
    pub fn name(&self) -> String {
        match self {
            Recipe::Gradient(_) => "gradient".into(),
            Recipe::InputXGradient(_) => "input-x-gradient".into(),
            Recipe::SmoothGrad(smooth) => {
                let form = match smooth.form {
                    Form::MeanAbsolute => "smoothgrad",
                    Form::Mean => "smoothgrad-signed",
                    Form::MeanSquare => "smoothgrad-squared",
                    Form::Variance => "vargrad",
                };
                match &*smooth.of {
                    Recipe::Gradient(_) => form.into(),
                    other => format!("{form} of {}", other.name()),
                }
            }
            Recipe::Other { name } => name.clone(),
        }
    }

    /// Whether its values cannot be negative.
    ///
    /// ```
    /// use saliency_core::Recipe;
    /// assert!(Recipe::named("vargrad")?.is_non_negative());
    /// assert!(!Recipe::named("smoothgrad-signed")?.is_non_negative());
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    pub fn is_non_negative(&self) -> bool {
        match self {
            Recipe::SmoothGrad(smooth) => smooth.form != Form::Mean || smooth.of.is_non_negative(),
            _ => false,
        }
    }

    fn runnable<const D: usize>(&self) -> Result<&dyn Method<D>, Error> {
        match self {
            Recipe::Gradient(method) => Ok(method),
            Recipe::InputXGradient(method) => Ok(method),
            Recipe::SmoothGrad(method) => Ok(method),
            Recipe::Other { name } => Err(Error::option(
                "method",
                name,
                "it is not one of this crate's, so it cannot be run from a recipe",
            )),
        }
    }
}

impl<const D: usize> Method<D> for Recipe {
    fn recipe(&self) -> Recipe {
        self.clone()
    }

    fn validate(&self) -> Result<(), Error> {
        self.runnable::<D>()?.validate()
    }

    fn attribute(
        &self,
        model: &dyn Model<D>,
        input: &Tensor<D>,
        goal: &Goal,
        run: &Run,
    ) -> Result<Tensor<D>, Error> {
        self.runnable()?.attribute(model, input, goal, run)
    }
}
