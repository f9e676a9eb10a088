use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    attribution::Outcome,
    error::Error,
    method::Method,
    methods::{
        AttentionMap, AttentionRollout, Form, Gradient, GradientAttentionRollout, HeadFusion,
        InputXGradient, InternalInfluence, LayerActivation, LayerConductance,
        LayerGradientXActivation, LayerIntegratedGradients, NeuronConductance, NeuronGradient,
        NeuronIntegratedGradients, SmoothGrad,
    },
    model::Model,
    quadrature::Quadrature,
    run::Run,
    target::Goal,
};

/// What a method is built on; the pages of the guide follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Family {
    /// The gradient at the input, and averages of it.
    Gradient,
    /// Gradients along a path from a baseline.
    Path,
    /// A backward pass with rules of its own.
    Rule,
    /// Class activation maps of a layer.
    Cam,
    /// Attention of transformers.
    Attention,
    /// Scores of changed inputs.
    Perturbation,
    /// Attributions of a layer or of one neuron.
    Layer,
}

/// What a method needs of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Needs {
    /// Scores only: any closure will do.
    Scores,
    /// Gradients at the input: any differentiable closure will do.
    Gradients,
    /// The inside of the model: a traced [`Graph`](crate::Graph).
    Graph,
}

/// A method that has a name: see [`Recipe::named`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodInfo {
    /// Its name, as the command line takes it.
    pub name: &'static str,
    /// What it is built on.
    pub family: Family,
    /// What it needs of a model.
    pub needs: Needs,
    /// What it is, in one line.
    pub summary: &'static str,
}

/// What the registry asks of a method's options, beside [`Method`] and serde.
pub(crate) trait Registered {
    /// Whether its values cannot be negative.
    fn is_non_negative(&self) -> bool {
        false
    }
}

/// The registry: the enum, the names and the dispatch of all methods come from this one list.
macro_rules! registry {
    (
        methods { $( $variant:ident($type:ty) = $name:literal, $family:ident, $needs:ident, $summary:literal; )+ }
        presets { $( $preset:literal = $of:ident $recipe:expr, $preset_summary:literal; )* }
    ) => {
        /// A method as data: what a result records, and what the command line and JSON files
        /// name.
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
        #[serde(tag = "method")]
        #[non_exhaustive]
        pub enum Recipe {
            $(
                #[doc = concat!("`", $name, "`: ", $summary, ".")]
                #[serde(rename = $name)]
                $variant($type),
            )+
            /// A method from outside this crate; it is recorded, and cannot be run from data.
            #[serde(rename = "other")]
            Other {
                /// Its name.
                name: String,
            },
        }

        impl Recipe {
            /// All methods by name, presets beside the methods they are options of.
            pub const METHODS: &'static [MethodInfo] = &[
                $( MethodInfo {
                    name: $name, family: Family::$family, needs: Needs::$needs, summary: $summary,
                }, )+
                $( MethodInfo {
                    name: $preset,
                    family: Recipe::info_of(stringify!($of)).family,
                    needs: Recipe::info_of(stringify!($of)).needs,
                    summary: $preset_summary,
                }, )*
            ];

            const fn info_of(variant: &str) -> MethodInfo {
                $( if same(variant, stringify!($variant)) {
                    return MethodInfo {
                        name: $name, family: Family::$family, needs: Needs::$needs, summary: $summary,
                    };
                } )+
                panic!("a preset names a method that is not there")
            }

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
                match name {
                    $( $name => Ok(Recipe::$variant(<$type>::default())), )+
                    $( $preset => Ok(Recipe::$of($recipe)), )*
                    _ => Err(Error::UnknownMethod {
                        name: name.into(),
                        known: Self::METHODS.iter().map(|m| m.name).collect::<Vec<_>>().join(", "),
                    }),
                }
            }

            /// Family, needs and summary; `None` for a method from outside this crate.
            ///
            /// ```
            /// use saliency_core::{Needs, Recipe};
            /// assert_eq!(Recipe::named("vargrad")?.info().unwrap().needs, Needs::Gradients);
            /// # Ok::<(), saliency_core::Error>(())
            /// ```
            pub fn info(&self) -> Option<MethodInfo> {
                match self {
                    $( Recipe::$variant(_) => Some(Self::info_of(stringify!($variant))), )+
                    Recipe::Other { .. } => None,
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
                    $( Recipe::$variant(method) => Registered::is_non_negative(method), )+
                    Recipe::Other { .. } => false,
                }
            }

            fn runnable<const D: usize>(&self) -> Result<&dyn Method<D>, Error> {
                match self {
                    $( Recipe::$variant(method) => Ok(method), )+
                    Recipe::Other { name } => Err(Error::option(
                        "method",
                        name,
                        "it is not one of this crate's, so it cannot be run from a recipe",
                    )),
                }
            }
        }
    };
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

registry! {
    methods {
        Gradient(Gradient) = "gradient", Gradient, Gradients, "d score / d input, signed";
        InputXGradient(InputXGradient) = "input-x-gradient", Gradient, Gradients, "input times gradient";
        SmoothGrad(SmoothGrad<Box<Recipe>>) = "smoothgrad", Gradient, Gradients, "mean |gradient| over noisy copies of the input";
        LayerActivation(LayerActivation) = "layer-activation", Layer, Graph, "a layer's activation";
        LayerGradientXActivation(LayerGradientXActivation) = "layer-gradient-x-activation", Layer, Graph, "a layer's activation times the gradient there";
        LayerConductance(LayerConductance) = "layer-conductance", Layer, Graph, "how much of the score flows through each value of a layer";
        InternalInfluence(InternalInfluence) = "internal-influence", Layer, Graph, "gradient at a layer, averaged along a path";
        LayerIntegratedGradients(LayerIntegratedGradients) = "layer-integrated-gradients", Layer, Graph, "Integrated Gradients in the space of a layer";
        NeuronGradient(NeuronGradient) = "neuron-gradient", Layer, Graph, "d neuron / d input, signed";
        NeuronConductance(NeuronConductance) = "neuron-conductance", Layer, Graph, "how much of the score flows from the input through a neuron";
        NeuronIntegratedGradients(NeuronIntegratedGradients) = "neuron-integrated-gradients", Layer, Graph, "Integrated Gradients of a neuron";
        AttentionMap(AttentionMap) = "attention-map", Attention, Graph, "attention weights of one layer and head";
        AttentionRollout(AttentionRollout) = "attention-rollout", Attention, Graph, "attention followed through all layers";
        GradientAttentionRollout(GradientAttentionRollout) = "gradient-attention-rollout", Attention, Graph, "attention times its gradient followed through all layers";
    }
    presets {
        "smoothgrad-signed" = SmoothGrad SmoothGrad::default().form(Form::Mean), "mean gradient over noisy copies";
        "smoothgrad-squared" = SmoothGrad SmoothGrad::default().form(Form::MeanSquare), "mean gradient^2 over noisy copies";
        "layer-conductance-captum" = LayerConductance LayerConductance::captum(), "layer conductance with Captum's sum";
        "neuron-conductance-captum" = NeuronConductance NeuronConductance::default().rule(Quadrature::RiemannTrapezoid), "neuron conductance with Captum's weights";
        "attention-rollout-max" = AttentionRollout AttentionRollout::new().heads(HeadFusion::Max).discard(0.9), "attention rollout of the strongest heads and weights";
        "vargrad" = SmoothGrad SmoothGrad::default().form(Form::Variance), "variance of the gradient over noisy copies";
    }
}

impl Default for Recipe {
    fn default() -> Self {
        Recipe::Gradient(Gradient)
    }
}

impl Registered for Box<Recipe> {
    fn is_non_negative(&self) -> bool {
        (**self).is_non_negative()
    }
}

impl Recipe {
    /// The method's name, with the method inside a wrapper where that is not the gradient:
    /// `smoothgrad`, `smoothgrad of input-x-gradient`.
    ///
    /// ```
    /// use saliency_core::Recipe;
    /// assert!(Recipe::METHODS.iter().all(|m| Recipe::named(m.name).unwrap().name() == m.name));
    /// ```
    pub fn name(&self) -> String {
        match self {
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
            other => {
                let preset = Self::METHODS
                    .iter()
                    .find(|m| Self::named(m.name).is_ok_and(|recipe| recipe == *other));
                let own = other.info().map(|info| info.name);
                preset.map(|m| m.name).or(own).unwrap_or("other").into()
            }
        }
    }

    /// Its options as JSON: name and value.
    ///
    /// ```
    /// use saliency_core::Recipe;
    /// assert_eq!(Recipe::named("smoothgrad")?.options()["samples"], 50);
    /// assert!(Recipe::named("gradient")?.options().is_empty());
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    pub fn options(&self) -> serde_json::Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(mut fields)) => {
                fields.remove("method");
                fields
            }
            _ => serde_json::Map::new(),
        }
    }

    /// The same method with one option changed, by its name in the JSON form.
    ///
    /// ```
    /// use saliency_core::Recipe;
    /// let recipe = Recipe::named("smoothgrad")?.with("samples", 20)?.with("seed", 7)?;
    /// assert_eq!(recipe.options()["samples"], 20);
    /// let unknown = Recipe::named("smoothgrad")?.with("windows", 3).unwrap_err();
    /// assert!(unknown.to_string().starts_with("smoothgrad has no option \"windows\"; it has "));
    /// assert!(Recipe::named("smoothgrad")?.with("samples", "many").is_err());
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownOption`] lists the options; [`Error::Recipe`] where the value is of
    /// the wrong kind.
    pub fn with(&self, option: &str, value: impl Into<Value>) -> Result<Self, Error> {
        let mut fields = self.options();
        if !fields.contains_key(option) {
            let known: Vec<_> = fields.keys().map(String::as_str).collect();
            return Err(Error::UnknownOption {
                method: self.name(),
                option: option.into(),
                known: match known.is_empty() {
                    true => "none".into(),
                    false => known.join(", "),
                },
            });
        }
        fields.insert(option.into(), value.into());
        if let Some(info) = self.info() {
            fields.insert("method".into(), info.name.into());
        }
        serde_json::from_value(Value::Object(fields)).map_err(|e| Error::Recipe {
            message: format!("{option} of {}: {e}", self.name()),
        })
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
    ) -> Result<Outcome<D>, Error> {
        self.runnable()?.attribute(model, input, goal, run)
    }
}
