use std::path::Path;

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor},
};
use saliency_core::{BatchSize, Graph, Method, Model, Needs, Recipe, Run, Target};
use saliency_models::{
    demo, fetch,
    labels::Labels,
    photo::RgbImage,
    preprocess::{Preprocess, Resize},
    saved::SavedModel,
    zoo::{Architecture, Network},
};

use crate::{
    args::{MethodArgs, ModelArgs, Precision, PreprocessChoice, TargetChoice},
    device,
    error::Error,
    files,
};

/// A network ready to be explained, with all that belongs to it.
pub struct Loaded {
    pub name: String,
    pub network: Network,
    pub preprocess: Preprocess,
    pub labels: Labels,
    pub device: Device,
    graph: Graph,
    dtype: DType,
    batch: BatchSize,
}

impl Loaded {
    /// The embedded demo model.
    pub fn demo(device: Device) -> Result<Self, Error> {
        let network = Network::CifarResNet(demo::load(&device)?);
        Ok(Loaded {
            name: "demo".into(),
            preprocess: demo::preprocess(),
            labels: demo::labels(),
            graph: graph(&network, &demo::preprocess(), &device)?,
            network,
            device,
            dtype: DType::F32,
            batch: BatchSize::default(),
        })
    }

    /// The network that the command line names.
    pub fn from_args(args: &ModelArgs) -> Result<Self, Error> {
        if SavedModel::is_folder(Path::new(&args.model)) {
            return Err(Error::Usage(format!(
                "{} is a model of rows, not of images: use `saliency explain --data FILE --model {0}` or `saliency importance`",
                args.model
            )));
        }
        let architecture = match args.model.as_str() {
            "demo" => None,
            name => Some(
                name.parse::<Architecture>()
                    .map_err(|e| Error::Usage(format!("{e}, demo")))?,
            ),
        };
        if architecture.is_none() && args.weights.is_some() {
            return Err(Error::Usage(
                "the demo model has its weights embedded; leave out --weights or choose another --model".into(),
            ));
        }
        let weights = match (architecture, &args.weights) {
            (None, _) => None,
            (Some(_), Some(path)) => Some(path.clone()),
            (Some(architecture), None) => Some(stored(architecture)?),
        };
        let device = device::open(&args.device)?;
        let mut loaded = match (architecture, weights) {
            (Some(architecture), Some(path)) => {
                let network = architecture.load(path, &device)?.valid();
                let preprocess = match args.preprocess {
                    PreprocessChoice::Auto => natural(architecture),
                    other => chosen(other),
                };
                Loaded {
                    name: architecture.to_string(),
                    graph: graph(&network, &preprocess, &device)?,
                    network,
                    preprocess,
                    labels: names(architecture),
                    device,
                    dtype: DType::F32,
                    batch: BatchSize::default(),
                }
            }
            _ => {
                let mut demo = Loaded::demo(device)?;
                if args.preprocess != PreprocessChoice::Auto {
                    demo.preprocess = chosen(args.preprocess);
                    demo.graph = graph(&demo.network, &demo.preprocess, &demo.device)?;
                }
                demo
            }
        };
        loaded.compute_in(args.precision)?;
        if let Some(rows) = args.batch {
            loaded.batch = BatchSize::Rows(rows as usize);
        }
        if let Some(bytes) = args.memory {
            loaded.batch = BatchSize::Memory(bytes);
        }
        let classes = loaded.network.classes();
        match &args.labels {
            Some(path) => {
                loaded.labels = Labels::from_file(path)?;
                let given = loaded.labels.len();
                if given != classes {
                    return Err(Error::Usage(format!(
                        "{}: has {given} class names, but the network has {classes} classes",
                        path.display()
                    )));
                }
            }
            // Weights of another data set than the network's usual one.
            None if loaded.labels.len() != classes => loaded.labels = Labels::new([""; 0]),
            None => {}
        }
        Ok(loaded)
    }

    /// Casts the graph; pictures follow.
    fn compute_in(&mut self, precision: Precision) -> Result<(), Error> {
        let (dtype, name) = match precision {
            Precision::F32 => return Ok(()),
            Precision::F64 => (DType::F64, "f64"),
            Precision::F16 => (DType::F16, "f16"),
            Precision::Bf16 => (DType::BF16, "bf16"),
        };
        if !self.device.supports_dtype(dtype) {
            return Err(Error::Usage(format!(
                "--precision {name}: {} does not compute in it; leave it out, or choose another --device",
                device::describe(&self.device)
            )));
        }
        self.graph = self.graph.cast(dtype);
        self.dtype = dtype;
        Ok(())
    }

    /// The picture as the network gets it, and as a person sees that.
    pub fn prepare(&self, photo: &RgbImage) -> Result<(Tensor<4>, RgbImage), Error> {
        let view = self.preprocess.view(photo)?;
        let x = self.preprocess.apply(photo, &self.device)?;
        Ok((x.cast(self.dtype), view))
    }

    /// The class's name, or its number where it has none.
    pub fn label(&self, class: usize) -> String {
        match self.labels.name(class) {
            Some(name) => name.to_owned(),
            None => format!("class {class}"),
        }
    }

    /// The class that the command line names.
    pub fn class(&self, text: &str) -> Result<usize, Error> {
        match text.trim().parse() {
            Ok(class) => self.numbered(class),
            Err(_) if self.labels.is_empty() => Err(Error::Usage(format!(
                "the classes of these weights have no names: give a number instead of {text:?}, or --labels FILE"
            ))),
            Err(_) => Ok(self.labels.find(text.trim())?),
        }
    }

    /// The single target that the command line names.
    pub fn target(&self, choice: &TargetChoice) -> Result<Target, Error> {
        match choice {
            TargetChoice::Predicted => Ok(Target::Predicted),
            TargetChoice::Class(class) => Ok(Target::Class(self.numbered(*class)?)),
            TargetChoice::Label(text) => Ok(Target::Class(self.class(text)?)),
            TargetChoice::Top(_) => Err(Error::Usage(
                "top:K is for `explain` and `compare`; give one class here".into(),
            )),
        }
    }

    /// Fails where `explain` would fail for every image.
    pub fn check(&self, choice: &TargetChoice) -> Result<(), Error> {
        let classes = self.network.classes();
        match choice {
            TargetChoice::Top(k) if *k > classes => Err(Error::Usage(format!(
                "top:{k} asks for more than the {classes} classes of the network"
            ))),
            TargetChoice::Top(_) => Ok(()),
            one => self.target(one).map(drop),
        }
    }

    fn numbered(&self, class: usize) -> Result<usize, Error> {
        let classes = self.network.classes();
        match class < classes {
            true => Ok(class),
            false => Err(saliency_core::Error::UnknownClass { class, classes }.into()),
        }
    }

    /// How methods are run on it.
    pub fn run<'a>(&self) -> Run<'a> {
        Run::new().batch_size(self.batch)
    }

    /// As a function for `saliency-core`.
    pub fn model(&self) -> &dyn Model<4> {
        &self.graph
    }
}

/// The network as a graph at the size of its prepared pictures.
fn graph(network: &Network, preprocess: &Preprocess, device: &Device) -> Result<Graph, Error> {
    let (width, height) = preprocess.size();
    let example = Tensor::zeros([1, 3, height as usize, width as usize], device);
    Ok(network.trace(&example)?)
}

fn chosen(choice: PreprocessChoice) -> Preprocess {
    match choice {
        PreprocessChoice::Auto | PreprocessChoice::Stretch => Preprocess::imagenet(),
        PreprocessChoice::Crop => Preprocess::imagenet_center_crop(),
        PreprocessChoice::Caffe => Preprocess::squeezenet_caffe(),
        PreprocessChoice::CaffeNearest => Preprocess {
            resize: Resize::Nearest {
                width: 227,
                height: 227,
            },
            ..Preprocess::squeezenet_caffe()
        },
    }
}

fn natural(architecture: Architecture) -> Preprocess {
    match architecture.input_size() {
        32 => Preprocess::cifar10(),
        _ => Preprocess::imagenet(),
    }
}

/// The names of the classes of the data set that a network is usually trained on.
fn names(architecture: Architecture) -> Labels {
    match architecture.classes() {
        10 => Labels::cifar10(),
        _ => Labels::imagenet(),
    }
}

fn stored(architecture: Architecture) -> Result<std::path::PathBuf, Error> {
    let name = architecture.name();
    fetch::cached(name, &fetch::Options::default()).ok_or_else(|| {
        let published = fetch::PUBLISHED.iter().any(|p| p.name == name);
        Error::Usage(match published {
            true => format!("there are no weights for {name}: run `saliency fetch {name}`, or give --weights FILE"),
            false => format!("there are no published weights for {name}: give --weights FILE"),
        })
    })
}

/// The method that the command line names, with its options checked for images.
pub fn recipe(args: &MethodArgs) -> Result<Recipe, Error> {
    let recipe = recipe_or(args, "gradient")?;
    Method::<4>::validate(&recipe)?;
    Ok(recipe)
}

/// The method that the command line names, or the usual one.
pub fn recipe_or(args: &MethodArgs, usual: &str) -> Result<Recipe, Error> {
    let mut recipe = match &args.recipe {
        Some(path) => {
            let text = files::read_text(path)?;
            serde_json::from_str(&text)
                .map_err(|e| Error::file(path, format!("not a recipe: {e}")))?
        }
        None => Recipe::named(args.method.as_deref().unwrap_or(usual))?,
    };
    if let Some(of) = &args.of {
        let of =
            serde_json::to_value(Recipe::named(of)?).map_err(|e| Error::Internal(e.to_string()))?;
        recipe = recipe.with("of", of)?;
    }
    if let Some(layer) = &args.layer {
        recipe = match recipe.options().contains_key("layers") {
            true => recipe.with("layers", layer.split(',').collect::<Vec<_>>())?,
            false => recipe.with("layer", layer.as_str())?,
        };
    }
    for (name, value) in [("steps", args.steps), ("samples", args.samples)] {
        if let Some(value) = value {
            recipe = recipe.with(name, value)?;
        }
    }
    // A method that draws nothing has no seed.
    if let Some(seed) = args.seed.filter(|_| recipe.options().contains_key("seed")) {
        recipe = recipe.with("seed", seed)?;
    }
    if let Some(level) = args.noise {
        // JSON has no NaN, so the method itself would not see it.
        if !level.is_finite() {
            return Err(Error::Core(saliency_core::Error::Option {
                option: "noise",
                value: level.to_string(),
                requirement: "it must be a finite number of at least 0",
            }));
        }
        recipe = recipe.with("noise", serde_json::json!({ "relative": level }))?;
    }
    for option in &args.options {
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| Error::Usage(format!("--option {option}: write it as NAME=VALUE")))?;
        // What is not JSON is text: layer=relu_3 needs no quotes.
        let value: serde_json::Value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        recipe = recipe.with(name.trim(), value)?;
    }
    Ok(recipe)
}

/// The presets that the demo always shows: the forms of SmoothGrad.
const FORMS: [&str; 3] = ["smoothgrad-signed", "smoothgrad-squared", "vargrad"];

/// The methods of the demo, sampled ones with few samples: presets of the same method only
/// where they are asked for, but for the forms of SmoothGrad.
pub fn demo_methods(presets: bool) -> Vec<Recipe> {
    let at_most = |recipe: Recipe, option: &str, most: u64| {
        let given = recipe
            .options()
            .get(option)
            .and_then(|value| value.as_u64());
        match given {
            Some(value) if value > most => recipe.with(option, most).unwrap_or(recipe),
            _ => recipe,
        }
    };
    // Presets with a pass for each of the thousands of values get superpixels.
    let coarse = |recipe: Recipe| match recipe.options().get("features") {
        Some(features) if features == "each" => recipe.with("features", "auto").unwrap_or(recipe),
        _ => recipe,
    };
    let few = |recipe: Recipe| match recipe {
        // One sample of these is a pass for each feature.
        Recipe::Shapley(_) | Recipe::Sobol(_) => at_most(recipe, "samples", 8),
        Recipe::FeaturePermutation(_) => at_most(recipe, "samples", 4),
        Recipe::ExtremalPerturbation(_) | Recipe::MeaningfulPerturbation(_) => {
            at_most(recipe, "steps", 40)
        }
        recipe
            if recipe
                .info()
                .is_some_and(|info| info.needs == Needs::Scores) =>
        {
            at_most(recipe, "samples", 256)
        }
        recipe => at_most(recipe, "samples", 25),
    };
    Recipe::METHODS
        .iter()
        .filter_map(|method| Some((method.name, Recipe::named(method.name).ok()?)))
        .filter(|(name, recipe)| {
            let own = recipe.info().is_some_and(|info| info.name == *name);
            presets || own || FORMS.contains(name)
        })
        .map(|(_, recipe)| few(coarse(recipe)))
        .collect()
}
