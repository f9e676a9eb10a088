use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    attribution::Outcome, error::Error, graph::Layer, method::Method, methods::*, model::Model,
    noise::NoiseScale, quadrature::Quadrature, quasi::Design, run::Run, target::Goal,
    upsample::Resize,
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
    /// Scores of a batch of at least two rows: any closure will do.
    Batch,
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
        IntegratedGradients(IntegratedGradients) = "integrated-gradients", Path, Gradients, "gradients integrated along the line from a baseline";
        ExpectedGradients(ExpectedGradients) = "expected-gradients", Path, Gradients, "integrated gradients averaged over baselines, by sampling";
        BlurIg(BlurIg) = "blur-ig", Path, Gradients, "gradients integrated while the input is blurred away";
        GuidedIg(GuidedIg) = "guided-ig", Path, Gradients, "gradients integrated along a path of small gradients";
        Idgi(Idgi) = "idgi", Path, Gradients, "changes of the score along a path, shared out by gradient^2";
        Xrai(Xrai) = "xrai", Path, Gradients, "regions ranked by the density of integrated gradients";
        Occlusion(Occlusion) = "occlusion", Perturbation, Scores, "score lost where a window is covered";
        FeatureAblation(FeatureAblation) = "feature-ablation", Perturbation, Scores, "score lost without each feature";
        FeaturePermutation(FeaturePermutation) = "feature-permutation", Perturbation, Batch, "score lost with each feature taken from another row of the batch";
        Shapley(Shapley) = "shapley", Perturbation, Scores, "score that each feature adds, averaged over all orders";
        KernelShap(KernelShap) = "kernel-shap", Perturbation, Scores, "Shapley values by weighted least squares";
        Lime(Lime) = "lime", Perturbation, Scores, "weights of a linear model fitted near the input";
        Rise(Rise) = "rise", Perturbation, Scores, "mean score under random masks, weighted by the masks";
        Sobol(Sobol) = "sobol", Perturbation, Scores, "share of the score's variance under masks that each cell takes part in";
        Hsic(Hsic) = "hsic", Perturbation, Scores, "how far the score depends on each cell under random masks";
        ExtremalPerturbation(ExtremalPerturbation) = "extremal-perturbation", Perturbation, Gradients, "the smooth mask of a given area that keeps the score highest";
        MeaningfulPerturbation(MeaningfulPerturbation) = "meaningful-perturbation", Perturbation, Gradients, "the least mask whose blur takes the score away";
        DeepLift(DeepLift) = "deeplift", Rule, Graph, "differences from a baseline passed back through every operation";
        DeepLiftShap(DeepLiftShap) = "deeplift-shap", Rule, Graph, "DeepLIFT averaged over a set of baselines";
        Lrp(Lrp) = "lrp", Rule, Graph, "layer-wise relevance: epsilon on dense layers, gamma on convolutions";
        ExcitationBackprop(ExcitationBackprop) = "excitation-backprop", Rule, Graph, "probability that a top-down walk along positive weights ends here";
        GradCam(GradCam) = "grad-cam", Cam, Graph, "channels of a layer weighted by their mean gradients";
        GradCamPlusPlus(GradCamPlusPlus) = "grad-cam++", Cam, Graph, "channels of a layer weighted by their positive gradients";
        XGradCam(XGradCam) = "xgrad-cam", Cam, Graph, "channels of a layer weighted by shares of activation times gradient";
        HiResCam(HiResCam) = "hires-cam", Cam, Graph, "activations times gradients of a layer";
        LayerCam(LayerCam) = "layer-cam", Cam, Graph, "activations times positive gradients of a layer";
        EigenCam(EigenCam) = "eigen-cam", Cam, Graph, "first principal component of a layer, whatever the target";
        EigenGradCam(EigenGradCam) = "eigen-grad-cam", Cam, Graph, "first principal component of activations times gradients";
        ScoreCam(ScoreCam) = "score-cam", Cam, Graph, "channels of a layer weighted by their scores as masks";
        AblationCam(AblationCam) = "ablation-cam", Cam, Graph, "channels of a layer weighted by the score's drop without them";
        FullGrad(FullGrad) = "full-grad", Rule, Graph, "input times gradient and every bias times its own";
        GuidedBackprop(GuidedBackprop) = "guided-backprop", Rule, Graph, "gradient of which only positive parts pass a ReLU";
        Deconvnet(Deconvnet) = "deconvnet", Rule, Graph, "score passed back with ReLUs of the gradient alone";
        GuidedGradCam(GuidedGradCam) = "guided-grad-cam", Rule, Graph, "guided backprop times grad-cam";
        LayerActivation(LayerActivation) = "layer-activation", Layer, Graph, "a layer's activation";
        LayerGradientXActivation(LayerGradientXActivation) = "layer-gradient-x-activation", Layer, Graph, "a layer's activation times the gradient there";
        LayerConductance(LayerConductance) = "layer-conductance", Layer, Graph, "how much of the score flows through each value of a layer";
        InternalInfluence(InternalInfluence) = "internal-influence", Layer, Graph, "gradient at a layer, averaged along a path";
        LayerIntegratedGradients(LayerIntegratedGradients) = "layer-integrated-gradients", Layer, Graph, "Integrated Gradients in the space of a layer";
        LayerRule(LayerRule) = "layer-rule", Layer, Graph, "DeepLIFT, LRP or another rule method, stopped at a layer";
        NeuronGradient(NeuronGradient) = "neuron-gradient", Layer, Graph, "d neuron / d input, signed";
        NeuronConductance(NeuronConductance) = "neuron-conductance", Layer, Graph, "how much of the score flows from the input through a neuron";
        NeuronIntegratedGradients(NeuronIntegratedGradients) = "neuron-integrated-gradients", Layer, Graph, "Integrated Gradients of a neuron";
        NeuronAttribution(NeuronAttribution) = "neuron-attribution", Layer, Graph, "any method, of a neuron instead of the score";
        AttentionMap(AttentionMap) = "attention-map", Attention, Graph, "attention weights of one layer and head";
        AttentionRollout(AttentionRollout) = "attention-rollout", Attention, Graph, "attention followed through all layers";
        GradientAttentionRollout(GradientAttentionRollout) = "gradient-attention-rollout", Attention, Graph, "attention times its gradient followed through all layers";
    }
    presets {
        "smoothgrad-signed" = SmoothGrad SmoothGrad::default().form(Form::Mean), "mean gradient over noisy copies";
        "smoothgrad-squared" = SmoothGrad SmoothGrad::default().form(Form::MeanSquare), "mean gradient^2 over noisy copies";
        "smoothgrad-captum" = SmoothGrad SmoothGrad::default().samples(5).noise_scale(NoiseScale::Absolute(1.0)), "SmoothGrad with the defaults of Captum's NoiseTunnel of Saliency";
        "smoothgrad-pair" = SmoothGrad SmoothGrad::default().samples(25).noise(0.15).form(Form::MeanSquare), "SmoothGrad with the defaults of PAIR saliency: mean gradient^2";
        "smoothgrad-tf-keras-vis" = SmoothGrad SmoothGrad::default().samples(20).noise(0.2), "SmoothGrad as in the guide of tf-keras-vis";
        "smoothgrad-zennit" = SmoothGrad SmoothGrad::default().samples(20).form(Form::Mean), "SmoothGrad with the defaults of zennit: mean gradient";
        "saliency-captum" = SmoothGrad SmoothGrad::default().samples(1).noise(0.0), "|gradient|: Captum's Saliency";
        "integrated-gradients-adaptive" = IntegratedGradients IntegratedGradients::adaptive(0.01), "integrated gradients with steps where the gradient changes, until delta is within 1 %";
        "integrated-gradients-pair" = IntegratedGradients IntegratedGradients::default().rule(Quadrature::EvenPair).steps(25), "integrated gradients with the defaults of PAIR saliency";
        "integrated-gradients-zennit" = IntegratedGradients IntegratedGradients::default().rule(Quadrature::RiemannRight).steps(20), "integrated gradients with the defaults of zennit";
        "gradient-shap" = ExpectedGradients ExpectedGradients::default().samples(5), "expected gradients with the defaults of Captum's GradientShap";
        "layer-conductance-captum" = LayerConductance LayerConductance::captum(), "layer conductance with Captum's sum";
        "neuron-conductance-captum" = NeuronConductance NeuronConductance::default().rule(Quadrature::RiemannTrapezoid), "neuron conductance with Captum's weights";
        "layer-lrp" = LayerRule LayerRule::new(Recipe::Lrp(Lrp::default())), "LRP stopped at a layer";
        "neuron-guided-backprop" = NeuronAttribution NeuronAttribution::new(Recipe::GuidedBackprop(GuidedBackprop)), "guided backprop of a neuron";
        "neuron-deconvnet" = NeuronAttribution NeuronAttribution::new(Recipe::Deconvnet(Deconvnet)), "deconvnet of a neuron";
        "attention-rollout-max" = AttentionRollout AttentionRollout::new().heads(HeadFusion::Max).discard(0.9), "attention rollout of the strongest heads and weights";
        "vargrad" = SmoothGrad SmoothGrad::default().form(Form::Variance), "variance of the gradient over noisy copies";
        "xrai-fast" = Xrai Xrai::default().ranking(Ranking::Fast), "XRAI with regions ranked once: PAIR's fast algorithm";
        "feature-ablation-captum" = FeatureAblation FeatureAblation::captum(), "each value by itself: Captum's FeatureAblation";
        "kernel-shap-captum" = KernelShap KernelShap::captum(), "each value by itself, 25 sets: Captum's KernelShap";
        "occlusion-captum" = Occlusion Occlusion::captum(), "occlusion at every place";
        "occlusion-pair" = Occlusion Occlusion::pair(), "PAIR's occlusion: 15 wide, at every place, summed";
        "shapley-sampling" = Shapley Shapley::captum(), "Captum's ShapleyValueSampling: 25 orders at random";
        "lime-captum" = Lime Lime::captum(), "Captum's LIME: lasso, weights by the distance of the inputs";
        "rise-xplique" = Rise Rise::default().weighting(RiseWeighting::Observed), "RISE divided by the observed masks";
        "sobol-first-order" = Sobol Sobol::default().order(SobolOrder::First), "share of the score's variance that each cell explains alone";
        "sobol-xplique" = Sobol Sobol::default().design(Design::Sobol), "Sobol indices over the plain Sobol sequence";
        "hsic-xplique" = Hsic Hsic::default().width(ScoreWidth::MedianScore).design(Design::Sobol), "HSIC with the median score as the kernel's width";
        "extremal-perturbation-areas" = ExtremalPerturbation ExtremalPerturbation::many_areas(), "mean of extremal masks of six areas, smoothed";
        "deeplift-captum" = DeepLift DeepLift::captum(), "DeepLIFT with the rules of Captum";
        "deeplift-shap-captum" = DeepLiftShap DeepLiftShap::captum(), "the same averaged over a set of baselines";
        "lrp-epsilon-plus" = Lrp Lrp::epsilon_plus(), "LRP: epsilon on dense layers, z+ on convolutions";
        "lrp-epsilon-plus-flat" = Lrp Lrp::epsilon_plus_flat(), "the same, flat at the input";
        "lrp-epsilon-alpha2-beta1" = Lrp Lrp::epsilon_alpha2_beta1(), "LRP: epsilon on dense layers, alpha 2 beta 1 on convolutions";
        "lrp-epsilon-alpha2-beta1-flat" = Lrp Lrp::epsilon_alpha2_beta1_flat(), "the same, flat at the input";
        "lrp-epsilon-gamma-box" = Lrp Lrp::epsilon_gamma_box([], []), "LRP: epsilon on dense layers, gamma on convolutions, z-box at the input";
        "lrp-epsilon" = Lrp Lrp::of(LrpRule::Epsilon(1e-6)), "LRP with the epsilon rule everywhere";
        "lrp-gamma" = Lrp Lrp::of(LrpRule::Gamma(0.25)), "LRP with the gamma rule everywhere";
        "lrp-z-plus" = Lrp Lrp::of(LrpRule::ZPlus), "LRP with the z+ rule everywhere";
        "lrp-alpha-beta" = Lrp Lrp::of(LrpRule::alpha2_beta1()), "LRP with alpha 2 beta 1 everywhere";
        "lrp-w2" = Lrp Lrp::w2(), "LRP with w^2 at the input and z+ above: deep Taylor decomposition";
        "lrp-captum" = Lrp Lrp::of(LrpRule::Epsilon(1e-9)).stabiliser(1e-9), "Captum's LRP: epsilon 1e-9 everywhere";
        "contrastive-excitation-backprop" = ExcitationBackprop ExcitationBackprop::new().contrastive(true), "excitation backprop of the class minus that of its opposite";
        "excitation-backprop-zennit" = ExcitationBackprop ExcitationBackprop::new().bias(BiasShare::Absorbed), "excitation backprop with biases in the denominators";
        "grad-cam-signed" = GradCam GradCam::new().relu(false), "grad-cam without its ReLU, as Captum has it";
        "grad-cam++-normalised" = GradCamPlusPlus GradCamPlusPlus::new().alphas(Alphas::Normalised), "grad-cam++ with weights that add up to one, as tf-keras-vis has it";
        "eigen-cam-uncentred" = EigenCam EigenCam::new().centred(false), "eigen-cam without centring, as its paper has it";
        "score-cam-aligned" = ScoreCam ScoreCam::new().masks(Resize::Aligned), "score-cam with aligned corners, as pytorch-grad-cam has it";
        "faster-score-cam" = ScoreCam ScoreCam::new().channels(10), "score-cam of the 10 channels that vary most, as in the guide of tf-keras-vis";
        "hires-cam-pytorch-grad-cam" = HiResCam HiResCam::new().relu(true), "hires-cam with a ReLU, as pytorch-grad-cam has it";
        "eigen-cam-pytorch-grad-cam" = EigenCam EigenCam::new().relu(true), "eigen-cam with a ReLU, as pytorch-grad-cam has it";
        "eigen-grad-cam-pytorch-grad-cam" = EigenGradCam EigenGradCam::new().relu(true), "eigen-grad-cam with a ReLU, as pytorch-grad-cam has it";
        "ablation-cam-pytorch-grad-cam" = AblationCam AblationCam::new().fill(ChannelFill::BelowMinimum), "ablation-cam with channels far below the smallest value where that is not zero, as pytorch-grad-cam has it";
        "full-grad-signed" = FullGrad FullGrad::signed(), "full-grad that adds up to the score";
        "full-grad-per-channel" = FullGrad FullGrad::per_channel(), "full-grad with channels scaled one by one, as pytorch-grad-cam has it";
        "guided-grad-cam-nearest" = GuidedGradCam GuidedGradCam::new().resize(Resize::Nearest), "guided-grad-cam in blocks, as Captum has it";
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
        if let Some(info) = Self::METHODS
            .iter()
            .find(|m| Self::named(m.name).is_ok_and(|recipe| recipe == *self))
        {
            return info.name.into();
        }
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
            other => other.info().map_or("other", |info| info.name).into(),
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

    /// The same method with one option changed, by its name in the JSON form. `of.NAME` is an
    /// option of the method inside a wrapper.
    ///
    /// ```
    /// use saliency_core::Recipe;
    /// let recipe = Recipe::named("smoothgrad")?.with("samples", 20)?.with("seed", 7)?;
    /// assert_eq!(recipe.options()["samples"], 20);
    /// let unknown = Recipe::named("smoothgrad")?.with("windows", 3).unwrap_err();
    /// assert!(unknown.to_string().starts_with("smoothgrad has no option \"windows\"; it has "));
    /// assert!(Recipe::named("smoothgrad")?.with("samples", "many").is_err());
    /// assert!(Recipe::named("smoothgrad")?.with("of.steps", 3).is_err());
    /// # Ok::<(), saliency_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownOption`] lists the options; [`Error::Recipe`] where the value is of
    /// the wrong kind.
    pub fn with(&self, option: &str, value: impl Into<Value>) -> Result<Self, Error> {
        let wrong = |e: serde_json::Error| Error::Recipe {
            message: format!("{option} of {}: {e}", self.name()),
        };
        let mut fields = self.options();
        let (own, inner) = match option.split_once('.') {
            Some((own, inner)) => (own, Some(inner)),
            None => (option, None),
        };
        let Some(field) = fields.get_mut(own) else {
            let known: Vec<_> = fields.keys().map(String::as_str).collect();
            return Err(Error::UnknownOption {
                method: self.name(),
                option: option.into(),
                known: match known.is_empty() {
                    true => "none".into(),
                    false => known.join(", "),
                },
            });
        };
        *field = match inner {
            Some(inner) => {
                let wrapped: Recipe = serde_json::from_value(field.take()).map_err(wrong)?;
                serde_json::to_value(wrapped.with(inner, value)?).map_err(wrong)?
            }
            None => value.into(),
        };
        if let Some(info) = self.info() {
            fields.insert("method".into(), info.name.into());
        }
        serde_json::from_value(Value::Object(fields)).map_err(wrong)
    }
}

impl<const D: usize> Method<D> for Recipe {
    fn recipe(&self) -> Recipe {
        self.clone()
    }

    fn validate(&self) -> Result<(), Error> {
        self.runnable::<D>()?.validate()
    }

    fn reads(&self) -> &[Layer] {
        self.runnable::<D>().map_or(&[], |method| method.reads())
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
