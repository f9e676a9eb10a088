//! Which tensor of a file goes where in a module.

use std::collections::{BTreeMap, HashMap};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, DType, Int, Shape, Tensor};
use burn_store::burn_pack::{Error as PackError, Tensor as PackTensor};
use burn_store::{BurnToPyTorchAdapter, ModuleAdapter, ModuleContext, bridge};

use super::Format;
use super::error::{Misfit, Mismatch};

/// The convention of a file's names and linear weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// `bn1.weight`, linear weights `[out, in]`.
    Torch,
    /// `bn1.gamma`, linear weights `[in, out]`.
    Burn,
}

impl Layout {
    /// Burn puts the variant of an enum into the path, PyTorch has none.
    pub(super) fn skips_enum_variants(self) -> bool {
        self == Layout::Torch
    }
}

/// The tensors to apply, each under the name its layout gives it.
pub(super) struct Plan {
    pub(super) layout: Layout,
    pub(super) tensors: Vec<PackTensor>,
    pub(super) ignored: Vec<String>,
}

/// Finds a tensor for each place of the module, before any data is read.
pub(super) fn plan<M: Module>(
    module: &M,
    tensors: Vec<PackTensor>,
    format: Format,
) -> Result<Plan, Mismatch> {
    let torch = places(module, Layout::Torch);
    let burn = places(module, Layout::Burn);
    let (torch_prefix, torch_hits) = prefix(&tensors, &torch);
    let (burn_prefix, burn_hits) = prefix(&tensors, &burn);
    let is_burn = match format {
        Format::Burnpack => burn_hits >= torch_hits,
        _ => burn_hits > torch_hits,
    };
    let (layout, prefix, mut places) = match is_burn {
        true => (Layout::Burn, burn_prefix, burn),
        false => (Layout::Torch, torch_prefix, torch),
    };

    let mut mismatch = Mismatch::default();
    let mut plan = Plan {
        layout,
        tensors: Vec::with_capacity(places.len()),
        ignored: Vec::new(),
    };
    for mut tensor in tensors {
        let Some(name) = tensor.name.strip_prefix(&prefix).map(str::to_string) else {
            plan.ignored.push(tensor.name);
            continue;
        };
        match places.remove(&name) {
            Some(place) => {
                mismatch.misfits.extend(place.misfit(&name, &tensor));
                tensor.name = name;
                plan.tensors.push(tensor);
            }
            None if name.ends_with("num_batches_tracked") => plan.ignored.push(name),
            None => mismatch.unexpected.push(name),
        }
    }
    mismatch.missing = places.into_keys().collect();
    mismatch.unexpected.sort();
    mismatch.misfits.sort_by(|a, b| a.name.cmp(&b.name));
    plan.ignored.sort();
    match mismatch.is_empty() {
        true => Ok(plan),
        false => Err(mismatch),
    }
}

/// What checkpoints wrap their weights in.
const WRAPPERS: [&str; 10] = [
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "_orig_mod",
];

/// The wrapper under which most of the module's names are found, and how many.
fn prefix(tensors: &[PackTensor], places: &BTreeMap<String, Place>) -> (String, usize) {
    let mut hits: HashMap<&str, usize> = HashMap::new();
    for tensor in tensors {
        let mut rest = tensor.name.as_str();
        loop {
            if places.contains_key(rest) {
                let wrapper = &tensor.name[..tensor.name.len() - rest.len()];
                *hits.entry(wrapper).or_default() += 1;
            }
            match rest.split_once('.') {
                Some((head, tail)) if WRAPPERS.contains(&head) => rest = tail,
                _ => break,
            }
        }
    }
    hits.into_iter()
        .max_by_key(|&(wrapper, count)| (count, std::cmp::Reverse((wrapper.len(), wrapper))))
        .map(|(wrapper, count)| (wrapper.to_string(), count))
        .unwrap_or_default()
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Float,
    Int,
    Bool,
}

/// What the module wants at a name.
#[derive(Debug)]
struct Place {
    shape: Shape,
    kind: Kind,
}

impl Place {
    fn misfit(&self, name: &str, tensor: &PackTensor) -> Option<Misfit> {
        let dtype = tensor.dtype;
        let (fits, kind) = match self.kind {
            Kind::Float => (dtype.is_float(), "floating-point"),
            Kind::Int => (dtype.is_int() || dtype.is_uint(), "integer"),
            Kind::Bool => (
                dtype.is_bool() || matches!(dtype, DType::U8 | DType::U32),
                "boolean",
            ),
        };
        let misfit = |found: String, expected: String| Misfit {
            name: name.to_string(),
            found,
            expected,
        };
        if !fits {
            return Some(misfit(dtype.name().to_string(), kind.to_string()));
        }
        (tensor.shape != self.shape).then(|| {
            let [found, expected] =
                [&tensor.shape, &self.shape].map(|s| format!("{:?}", s.as_slice()));
            misfit(found, expected)
        })
    }
}

/// Every parameter and running statistic of the module by its name in the layout. Nothing
/// is initialised by asking.
fn places<M: Module>(module: &M, layout: Layout) -> BTreeMap<String, Place> {
    let mut visitor = Visitor {
        layout,
        path: Vec::new(),
        containers: Vec::new(),
        places: BTreeMap::new(),
    };
    module.visit(&mut visitor);
    visitor.places
}

struct Visitor {
    layout: Layout,
    path: Vec<String>,
    containers: Vec<String>,
    places: BTreeMap<String, Place>,
}

impl Visitor {
    fn is_on_path(&self, container: &str) -> bool {
        !(self.layout.skips_enum_variants() && container.starts_with("Enum:"))
    }

    /// Burn's own adapter knows which names and shapes PyTorch has; it is shown a tensor
    /// without data.
    fn add(&mut self, shape: Shape, kind: Kind) {
        let no_data = || Err(PackError::ValidationError("no data".to_string()));
        let tensor = bridge::deferred(self.path.join("."), DType::F32, shape, None, no_data);
        let tensor = match self.layout {
            Layout::Torch => {
                BurnToPyTorchAdapter.adapt(tensor, ModuleContext::new(&self.containers))
            }
            Layout::Burn => tensor,
        };
        let place = Place {
            shape: tensor.shape,
            kind,
        };
        self.places.insert(tensor.name, place);
    }
}

impl ModuleVisitor for Visitor {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.containers.push(container.to_string());
        if self.is_on_path(container) {
            self.path.push(name.to_string());
        }
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.containers.pop();
        if self.is_on_path(container) {
            self.path.pop();
        }
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.add(param.lazy_shape(), Kind::Float);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.add(param.lazy_shape(), Kind::Int);
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.add(param.lazy_shape(), Kind::Bool);
    }
}
